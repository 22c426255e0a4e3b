"""Models, optimizers and sizes that no training could begin with: said before anything is started."""

from front_door import Case

from corpus.profiles import PROFILE

GRID = "cells: {student: Mine, loss: ce}\n"
TAUGHT = "cells: {teacher: Mine, student: ResNet-50, loss: kd}\n"


def files(options: str, architecture: str = "test_resnet", grid: str = GRID) -> dict[str, str]:
    """A profile with a model of these options, and a grid that needs it."""
    mine = f"  Mine: {{architecture: {architecture}, options: {{{options}}}}}\n"
    return {"own.yaml": PROFILE.replace("models:\n", f"models:\n{mine}"), "mine.yaml": grid}


def _large(option: str, size: object, architecture: str = "test_resnet") -> Case:
    name = option.partition(":")[0]
    said = f'own.yaml:23: models.Mine: option "{name}": its numbers must add up to 10000 at most, not to {size}'
    return Case(("run", "mine.yaml", "--profile", "own.yaml"), said, files(option, architecture))


def _unmade(options: str, said: str, architecture: str = "test_resnet", grid: str = GRID, command: str = "run") -> Case:
    said = f"own.yaml:23: models.Mine: timm makes no {architecture} of these options{said}"
    return Case((command, "mine.yaml", "--profile", "own.yaml"), said, files(options, architecture, grid))


def _profile(old: str, new: str, said: str, command: tuple[str, ...] = ("plan", "mine.yaml")) -> Case:
    assert old in PROFILE
    grid = "cells: {student: ResNet-50, loss: ce}\n"
    changed = {"own.yaml": PROFILE.replace(old, new, 1), "mine.yaml": grid}
    return Case((*command, "--profile", "own.yaml"), f"own.yaml:{said}", changed)


UNKNOWN = ": ResNet.__init__() got an unexpected keyword argument 'nonsense'"
CASES = {
    "option that there is not": _unmade("nonsense: 3", UNKNOWN),
    "option that there is not, in a plan": _unmade("nonsense: 3", UNKNOWN, command="plan"),
    "option that there is not, of a teacher": _unmade("nonsense: 3", UNKNOWN, grid=TAUGHT),
    "block that there is not": _unmade("block: nonsense", ": 'str' object has no attribute 'expansion'"),
    "text for a depth": _unmade("depth: deep", ": ", "test_vit"),
    "negative depth": _unmade("depth: -3", ": number of steps must be non-negative", "test_vit"),
    "no heads": _unmade("num_heads: 0", ": integer modulo by zero", "test_vit"),
    "width that heads do not divide": _unmade("embed_dim: 9", ": dim should be divisible by num_heads", "test_vit"),
    "layer that there is not": _unmade("act_layer: nonsense", ": 'nonsense'", "test_vit"),
    "weights of no kind": _unmade("weight_init: nonsense", "", "test_vit"),
    "endless depth": _large("depth: 100000000", 100000000, "test_vit"),
    "endless layers": _large("layers: [1000000000, 1, 1, 1]", 1000000003, "resnet26"),
    "many layers": _large("layers: [3000, 3000, 3000, 3000]", 12000, "resnet26"),
    "endless layers within": _large("block_args: {a: [[1, {b: 20000}]]}", 20001, "resnet26"),
    "depth of a hundred networks": _unmade("depth: 9999", ": it has more than 20,000 modules", "test_vit"),
    "layers of a hundred networks": _unmade("layers: [9900, 1, 1, 1]", ": it has more than 20,000 modules", "resnet50"),
    "endless negative width": _large("embed_dim: -100000", 100000, "test_vit"),
    "endless fraction": _large("mlp_ratio: 1e300", "1e+300", "test_vit"),
    "endless image of digits": _profile(
        "image_size: 16",
        "image_size: 1000000",
        "4: dataset.image_size: must be at most 512 for digits, not 1000000",
        ("check-data",),
    ),
    "endless image of CIFAR-100": _profile(
        "name: digits\n  image_size: 16",
        "name: cifar100\n  image_size: 513",
        "4: dataset.image_size: must be at most 512 for cifar100, not 513",
    ),
    "endless image of ImageNet": _profile(
        "name: digits\n  image_size: 16",
        "name: imagenet\n  image_size: 4097",
        "4: dataset.image_size: must be at most 4096 for imagenet, not 4097",
    ),
    "padding of many images' size": _profile(
        "padding: 1",
        "padding: 100000",
        "11: recipe.augmentation.padding: must be at most the image's size, 16, not 100000",
    ),
    "batch of more images than there are": _profile(
        "  batch_size: 128\n  micro_batch_size: 128",
        "  batch_size: 1443\n  micro_batch_size: 1443",
        "6: recipe.batch_size: 1443 images are more than the 1442 that digits has for training",
    ),
    "option that an optimizer refuses": _profile(
        "adamw: {learning_rate: 2e-3,",
        "adamw: {learning_rate: 2e-3, options: {betas: [5, -1]},",
        "17: optimizers.adamw: Invalid beta parameter at index 0: 5.0",
    ),
}
