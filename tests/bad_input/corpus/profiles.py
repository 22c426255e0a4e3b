"""Profiles: the one below with one text in it replaced by another, and what is said of that."""

from front_door import Case

GRID = "cells: {student: ResNet-50, loss: ce}\n"
# A profile of the project's own kind, written out so that tuning theirs changes no test.
PROFILE = """\
description: digits for tests
dataset:
  name: digits
  image_size: 16
recipe:
  batch_size: 128
  micro_batch_size: 128
  warmup_epochs: 1
  augmentation:
    crop: padded
    padding: 1
  mean: [0.306]
  std: [0.340]
optimizer: lamb
optimizers:
  lamb: {learning_rate: 2e-2, weight_decay: 0.02}
  adamw: {learning_rate: 2e-3, weight_decay: 0.02}
epochs: {100: 10, 300: 30}
teachers:
  source: trained
  epochs: 10
models:
  ResNet-50: {architecture: test_resnet}
machine:
  cpus_per_cohort: 1
"""

# name: (text in the profile, its replacement, what the message says)
CHANGES = {
    "unknown dataset": (
        "name: digits",
        "name: digit",
        'dataset.name: unknown dataset "digit"; valid: | (did you mean "digits"?)',
    ),
    "class count": (
        "  name: digits",
        "  num_classes: 12\n  name: digits",
        'dataset.num_classes: unknown key "num_classes"',
    ),
    "text for a size": ("image_size: 16", 'image_size: "16"', 'dataset.image_size: expected a whole number, not "16"'),
    "no size": ("image_size: 16", "image_size: 0", "dataset.image_size: must be at least 1, not 0"),
    "text for a batch": (
        "  batch_size: 128",
        '  batch_size: "128"',
        'recipe.batch_size: expected a whole number, not "128"',
    ),
    "fraction for a batch": (
        "  batch_size: 128",
        "  batch_size: 128.0",
        "recipe.batch_size: expected a whole number, not 128",
    ),
    "true for a batch": (
        "  batch_size: 128",
        "  batch_size: true",
        "recipe.batch_size: expected a whole number, not true",
    ),
    "null for a batch": ("  batch_size: 128", "  batch_size:", "recipe.batch_size: expected a whole number, not null"),
    "no batch": ("  batch_size: 128\n", "", 'recipe: missing key "batch_size"'),
    "key of the recipe": (
        "  batch_size: 128",
        "  batchsize: 128",
        'recipe.batchsize: unknown key | (did you mean "batch_size"?)',
    ),
    "uneven micro-batch": (
        "micro_batch_size: 128",
        "micro_batch_size: 100",
        "recipe: batch_size 128 is not a multiple of micro_batch_size 100",
    ),
    "unknown crop": (
        "crop: padded",
        "crop: pad",
        'recipe.augmentation.crop: unknown value "pad"; valid: none, | "padded"?)',
    ),
    "key of the augmentation": (
        "crop: padded",
        "corp: padded",
        'augmentation.corp: unknown key | (did you mean "crop"?)',
    ),
    "falling scale": ("crop: padded", "scale: [0.5, 0.1]", "recipe.augmentation: scale must rise"),
    "large scale": ("crop: padded", "scale: [0.5, 2]", "recipe.augmentation: scale must rise and end at 1 at most"),
    "short scale": ("crop: padded", "scale: [0.5]", "recipe.augmentation.scale: value 2 is missing"),
    "negative scale": (
        "crop: padded",
        "scale: [-0.5, 1]",
        "recipe.augmentation.scale[0]: must be greater than 0, not -0.5",
    ),
    "one for true": ("crop: padded", "horizontal_flip: 1", "horizontal_flip: expected true or false, not 1"),
    "text in a list": ("mean: [0.306]", "mean: ['0.3']", 'recipe.mean[0]: expected a number, not "0.3"'),
    "true in a list": ("mean: [0.306]", "mean: [true]", "recipe.mean[0]: expected a number, not true"),
    "no list": ("mean: [0.306]", "mean: 0.3", "recipe.mean: expected a list, not 0.3"),
    "other channels": (
        "mean: [0.306]\n  std: [0.340]",
        "mean: [1, 1, 1]\n  std: [1, 1, 1]",
        "recipe.mean: 3 values for 1 channel(s)",
    ),
    "other lengths": ("mean: [0.306]", "mean: [1, 1]", "recipe: mean has 2 values, std has 1"),
    "no deviation": ("std: [0.340]", "std: [0]", "recipe.std[0]: must be greater than 0, not 0"),
    "negative warm-up": ("warmup_epochs: 1", "warmup_epochs: -1", "recipe.warmup_epochs: must be at least 0, not -1"),
    "unknown precision": ("warmup_epochs: 1", "precision: floa32", 'recipe.precision: unknown value | "float32"?)'),
    "unknown default optimizer": (
        "optimizer: lamb\n",
        "optimizer: lamp\n",
        'optimizer: unknown optimizer "lamp"; | (did you mean "lamb"?)',
    ),
    "unknown optimizer": (
        "  adamw:",
        "  adamww:",
        'optimizers.adamww: unknown optimizer "adamww"; | (did you mean "adamw"?)',
    ),
    "optimizer that needs a device": ("  adamw:", "  bnbadam:", 'optimizers.bnbadam: unknown optimizer "bnbadam"'),
    "negative rate": (
        "learning_rate: 2e-2",
        "learning_rate: -1",
        "optimizers.lamb.learning_rate: must be greater than 0",
    ),
    "no rate": ("learning_rate: 2e-2, ", "", 'optimizers.lamb: missing key "learning_rate"'),
    "text for a rate": ("learning_rate: 2e-2", "learning_rate: fast", 'learning_rate: expected a number, not "fast"'),
    "unknown option": (
        "learning_rate: 2e-2",
        "learning_rate: 1, options: {epz: 1}",
        'options.epz: unknown lamb option "epz"; | "eps"?)',
    ),
    "text for an option": (
        "learning_rate: 2e-2",
        "learning_rate: 1, options: {eps: small}",
        "options.eps: expected a number, as its default",
    ),
    "number for a list": (
        "learning_rate: 2e-2",
        "learning_rate: 1, options: {betas: 0.9}",
        "options.betas: expected a list of numbers, as",
    ),
    "nested option": ("learning_rate: 2e-2", "learning_rate: 1, options: {eps: {a: 1}}", "options.eps: expected"),
    "rate as an option": (
        "learning_rate: 2e-2",
        "learning_rate: 1, options: {lr: 1}",
        'options.lr: unknown lamb option "lr"',
    ),
    "text for epochs": ("{100: ", "{many: ", 'epochs.many: expected a whole number, not "many"'),
    "no epochs": ("{100: 10", "{100: 0", "epochs[100]: must be at least 1, not 0"),
    "unknown source": (
        "source: trained",
        "source: train",
        'teachers.source: unknown value "train"; | (did you mean "trained"?)',
    ),
    "unknown teacher optimizer": (
        "source: trained",
        "source: trained\n  optimizer: lmb",
        'teachers.optimizer: unknown optimizer "lmb"; | "lamb"?)',
    ),
    "teacher with a teacher": (
        "source: trained",
        "source: trained\n  loss: kd",
        'teachers.loss: unknown value "kd"; valid:',
    ),
    "unknown architecture": (
        "{architecture: test_resnet",
        "{architecture: test_resnt",
        'unknown model "test_resnt"; | (did you mean "test_resnet"?)',
    ),
    "text for a model": (
        "ResNet-50: {",
        "ResNet-51: test_resnet\n  ResNet-50: {",
        "models.ResNet-51: expected a mapping",
    ),
    "unknown model key": (
        "ResNet-50: {architecture",
        "ResNet-50: {arch",
        'models.ResNet-50.arch: unknown key "arch"; valid:',
    ),
    "own class count": (
        "ResNet-50: {architecture: test_resnet",
        "ResNet-50: {options: {num_classes: 5}, architecture: test_resnet",
        "models.ResNet-50: num_classes comes from the dataset and cannot be an option of a model",
    ),
    "own channels": (
        "ResNet-50: {architecture: test_resnet",
        "ResNet-50: {options: {in_chans: 3}, architecture: test_resnet",
        "models.ResNet-50: in_chans comes from the dataset",
    ),
    "unknown tag": (
        "ResNet-50: {",
        "X: {architecture: resnet50, pretrained: {tag: a1_in1}}\n  ResNet-50: {",
        'models.X: timm has no weights "a1_in1" for resnet50; valid: a1_in1k, | (did you mean "a1_in1k"?)',
    ),
    "other classes": (
        "ResNet-50: {",
        "X: {architecture: resnet50, pretrained: {tag: a1_in1k}}\n  ResNet-50: {",
        "models.X: resnet50.a1_in1k knows 1000 classes, the dataset has 10",
    ),
    "machine without processors": (
        "cpus_per_cohort: 1",
        "cpus_per_cohort: 0",
        "machine.cpus_per_cohort: must be greater than",
    ),
    "unknown machine key": ("cpus_per_cohort: 1", "cpus: 1", 'machine.cpus: unknown key "cpus"; valid: '),
    "text for a cohort size": (
        "cpus_per_cohort: 1",
        "cohort_size: all",
        'machine.cohort_size: expected a whole number, not "al',
    ),
    "unknown top-level key": (
        "optimizers:\n",
        "optimisers:\n",
        'optimisers: unknown key | (did you mean "optimizers"?)',
    ),
    "endless epochs": ("{100: 10", "{100: 1000000", "epochs[100]: must be at most 100000, not 1000000"),
    "endless epochs of a teacher": (
        "  epochs: 10\n",
        "  epochs: 1000000000\n",
        "teachers.epochs: must be at most 100000, not 1000000000",
    ),
    "one number of two": (
        "learning_rate: 2e-2",
        "learning_rate: 1, options: {betas: [0.9]}",
        "options.betas: expected a list of numbers, as its default [0.9, 0.999], not [0.9]",
    ),
    "null for a name": ("ResNet-50: {", "~: {architecture: test_resnet}\n  ResNet-50: {", "a key must be plain text"),
    "duplicate": (
        "optimizer: lamb\n",
        "optimizer: lamb\noptimizer: lamb\n",
        'optimizer: duplicate key "optimizer", first on',
    ),
}


def _changed(old: str, new: str, said: str) -> Case:
    assert old in PROFILE
    files = {"bad.yaml": PROFILE.replace(old, new, 1), "grid.yaml": GRID}
    return Case(("run", "grid.yaml", "--profile", "bad.yaml"), f"bad.yaml: | {said}", files)


CASES = {name: _changed(*change) for name, change in CHANGES.items()}

IN21K = """\
description: ImageNet with one teacher
dataset: {name: imagenet, image_size: 224}
recipe: {batch_size: 8, micro_batch_size: 8, mean: [0, 0, 0], std: [1, 1, 1]}
optimizer: lamb
optimizers: {lamb: {learning_rate: 1e-3}}
teachers: {source: pretrained}
models:
  Small: {architecture: test_resnet}
  Big: {architecture: vit_base_patch16_224, pretrained: {tag: TAG}}
"""


def _published(tag: str, teacher: str, said: str) -> Case:
    files = {"bad.yaml": IN21K.replace("TAG", tag)}
    files["grid.yaml"] = f"cells:\n  student: Small\n  loss: kd\n  teacher: {teacher}\n"
    return Case(("run", "grid.yaml", "--profile", "bad.yaml"), said, files)


CASES |= {
    "published teacher of other classes": _published(
        "augreg_in21k",
        "Big",
        "bad.yaml:9: models.Big: vit_base_patch16_224.augreg_in21k knows 21843 classes, the dataset has 1000",
    ),
    "normalisation of other channels": _published(
        "augreg_in21k_ft_in1k, mean: [0.5]", "Big", "bad.yaml:9: models.Big.pretrained.mean: 1 values for 3 channel(s)"
    ),
    "grid's teacher of other classes": _published(
        "augreg_in21k_ft_in1k",
        "vit_base_patch16_224.augreg_in21k",
        "grid.yaml:4: cells.teacher: | knows 21843 classes, the dataset has 1000",
    ),
    "grid's teacher that was not published": _published(
        "augreg_in21k_ft_in1k",
        "Small",
        'grid.yaml:4: cells.teacher: "Small" has no published weights in profile bad, so it cannot teach',
    ),
    "grid's teacher without a tag": _published(
        "augreg_in21k_ft_in1k",
        "test_resnet",
        'cells.teacher: teacher "test_resnet" needs a tag of published weights, as in "test_resnet.TAG"',
    ),
    "grid's teacher of an unknown tag": _published(
        "augreg_in21k_ft_in1k",
        "test_resnet.r160_in1",
        'timm has no weights "r160_in1" for test_resnet; valid: r160_in1k (did you mean',
    ),
}
