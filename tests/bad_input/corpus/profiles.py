"""Profiles: the one below with a part replaced, and the expected message."""

from error_cases import Case

from corpus import load_cases

GRID = "cells: {student: ResNet-50, loss: ce}\n"
# Not one of the project's profiles, so that tuning them changes no test.
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
epochs: {paper-100: 10, paper-300: 30}
teachers:
  source: trained
  epochs: 10
models:
  ResNet-50: {architecture: test_resnet}
machine:
  cpus_per_cohort: 1
"""


def change(old: str, new: str, message: str) -> Case:
    assert old in PROFILE
    files = {"bad.yaml": PROFILE.replace(old, new, 1), "grid.yaml": GRID}
    return Case(("run", "grid.yaml", "--profile", "bad.yaml"), f"bad.yaml: | {message}", files)


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


def published(tag: str, teacher: str, message: str) -> Case:
    files = {"bad.yaml": IN21K.replace("TAG", tag)}
    files["grid.yaml"] = f"cells:\n  student: Small\n  loss: kd\n  teacher: {teacher}\n"
    return Case(("run", "grid.yaml", "--profile", "bad.yaml"), message, files)


CASES = load_cases(__file__, change, published)
