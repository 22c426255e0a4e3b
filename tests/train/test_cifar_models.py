"""The benchmark's networks on CIFAR-100: their sizes, shapes and initial weights, and a real training of each pair."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from small_datasets import write_cifar100
from torch import nn
from torch.nn import functional
from trainable import train

from pld_grid.catalogue import Catalogue
from pld_grid.grid import load_grid
from pld_grid.profile import Profile, find_profile
from pld_grid.store import sha256
from pld_grid.train.models import build_model, count_parameters, dump_weights
from pld_grid.train.models.cifar_resnet import PreActivatedBlock

GRID = find_profile("cifar100-benchmark").parent.parent / "cifar100.yaml"
CLASSES = 100

# -- parameters, layer by layer ----------------------------------------------------------------------------------------


def conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> int:
    """A convolution without a bias."""
    return kernel**2 * inputs // groups * outputs


def norm(channels: int) -> int:
    """Scale and shift of a normalisation."""
    return 2 * channels


def linear(inputs: int) -> int:
    return (inputs + 1) * CLASSES


def resnet(depth: int, stem: int, widths: tuple[int, ...]) -> int:
    """He et al. 2016, section 4.2: 6n + 2 layers; projections where the number of channels changes, or the stride."""
    blocks, rest = divmod(depth - 2, 6)
    assert rest == 0
    total = conv(3, stem, 3) + norm(stem) + linear(widths[-1])
    for inputs, width in pairwise((stem, *widths)):
        total += conv(inputs, width, 3) + conv(width, width, 3) + 2 * norm(width)
        total += (blocks - 1) * 2 * (conv(width, width, 3) + norm(width))
        total += conv(inputs, width, 1) + norm(width) if inputs != width else 0
    return total


def resnet50() -> int:
    """He et al. 2016, table 1: 3, 4, 6 and 3 bottlenecks; a 3x3 stem."""
    total = conv(3, 64, 3) + norm(64) + linear(2048)
    inputs = 64
    for width, blocks in zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True):
        total += conv(inputs, 4 * width, 1) + norm(4 * width)  # the stage's projection
        for _ in range(blocks):
            total += conv(inputs, width, 1) + conv(width, width, 3) + conv(width, 4 * width, 1)
            total += 2 * norm(width) + norm(4 * width)
            inputs = 4 * width
    return total


def wide_resnet(depth: int, widening: int) -> int:
    """Zagoruyko and Komodakis 2016, table 1: 6n + 4 layers; normalisations before convolutions; bare projections."""
    blocks, rest = divmod(depth - 4, 6)
    assert rest == 0
    widths = [16 * widening, 32 * widening, 64 * widening]
    total = conv(3, 16, 3) + norm(widths[-1]) + linear(widths[-1])
    for inputs, width in pairwise((16, *widths)):
        total += norm(inputs) + conv(inputs, width, 3) + norm(width) + conv(width, width, 3)
        total += (blocks - 1) * 2 * (norm(width) + conv(width, width, 3))
        total += conv(inputs, width, 1) if inputs != width else 0
    return total


def mobilenetv2(width: float) -> int:
    """Sandler et al. 2018, table 2: expansion, channels, repetitions; expanding even by 1."""
    inputs = int(32 * width)
    total = conv(3, inputs, 3) + norm(inputs) + linear(1280)
    stages = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
    for expansion, channels, repetitions in stages:
        for _ in range(repetitions):
            inner, outputs = expansion * inputs, int(channels * width)
            total += conv(inputs, inner, 1) + conv(inner, inner, 3, groups=inner) + conv(inner, outputs, 1)
            total += 2 * norm(inner) + norm(outputs)
            inputs = outputs
    return total + conv(inputs, 1280, 1) + norm(1280)


# By hand, and as the literature rounds it, in millions.
PARAMETERS = {
    "WRN-40-2": (wide_resnet(40, 2), 2_255_156, "2.26"),
    "WRN-40-1": (wide_resnet(40, 1), 569_780, "0.57"),
    "ResNet-56": (resnet(56, 16, (16, 32, 64)), 861_620, "0.86"),
    "ResNet-20": (resnet(20, 16, (16, 32, 64)), 278_324, "0.28"),
    "ResNet-32x4": (resnet(32, 32, (64, 128, 256)), 7_433_860, "7.43"),
    "ResNet-8x4": (resnet(8, 32, (64, 128, 256)), 1_233_540, "1.23"),
    "ResNet-50": (resnet50(), 23_705_252, "23.71"),
    "MobileNetV2": (mobilenetv2(0.5), 812_836, "0.81"),
}
MODELS = timm.list_models("cifar_*")


@pytest.fixture(scope="module")
def benchmark(profile: Callable[[str], Profile]) -> Profile:
    return profile("cifar100-benchmark")


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_literatures(benchmark: Profile, name: str) -> None:
    by_hand, published, rounded = PARAMETERS[name]
    assert count_parameters(build_model(benchmark.student(name), benchmark.dataset, seed=0)) == by_hand == published
    assert f"{published / 1e6:.2f}" == rounded


def test_the_profile_names_these_networks_and_no_others(benchmark: Profile) -> None:
    assert benchmark.file.models.keys() == PARAMETERS.keys()
    assert sorted(benchmark.student(name).architecture for name in PARAMETERS) == sorted(MODELS)


# -- layers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cifar_resnet20", (64, 8, 8)),
        ("cifar_resnet56", (64, 8, 8)),
        ("cifar_resnet8x4", (256, 8, 8)),
        ("cifar_resnet32x4", (256, 8, 8)),
        ("cifar_resnet50", (2048, 4, 4)),
        ("cifar_wrn40_1", (64, 8, 8)),
        ("cifar_wrn40_2", (128, 8, 8)),
        ("cifar_mobilenetv2_050", (1280, 2, 2)),
    ],
)
def test_feature_maps_and_head(name: str, shape: tuple[int, ...]) -> None:
    model = timm.create_model(name).eval()
    images = torch.randn(2, 3, 32, 32)
    maps = model.forward_features(images)
    assert maps.shape == (2, *shape)
    classifier = model.get_classifier()
    torch.testing.assert_close(model.forward_head(maps, pre_logits=True), maps.mean((2, 3)))
    torch.testing.assert_close(model(images), classifier(maps.mean((2, 3))))
    assert (classifier.in_features, classifier.out_features) == (model.num_features, CLASSES)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_takes_any_number_of_classes_channels_and_pixels(catalogue: Catalogue, name: str) -> None:
    assert name in catalogue.models
    assert catalogue.tags(name) == ()
    model = timm.create_model(name, num_classes=7, in_chans=1).eval()
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 7)
    model.reset_classifier(5)
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 5)
    assert model.num_classes == 5
    bare = timm.create_model(name, num_classes=0).eval()
    assert bare(torch.zeros(2, 3, 32, 32)).shape == (2, bare.num_features)
    with pytest.raises(RuntimeError):
        timm.create_model(name, pretrained=True)


def of(model: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_are_the_literatures(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name)
    for layer in of(model, nn.Conv2d):
        assert isinstance(layer, nn.Conv2d) and layer.bias is None
        # Groups do not count, as in the benchmark: its depthwise convolutions begin small.
        deviation = math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))
        spread = 5 * deviation / math.sqrt(2 * layer.weight.numel())  # five of the sample deviation's own
        assert layer.weight.std().item() == pytest.approx(deviation, abs=spread)
    for layer in of(model, nn.BatchNorm2d):
        assert isinstance(layer, nn.BatchNorm2d) and layer.eps == 1e-5 and layer.momentum == 0.1
        assert (layer.weight == 1).all() and (layer.bias == 0).all()
    classifier = model.get_classifier()
    assert isinstance(classifier, nn.Linear)
    limit = 1 / math.sqrt(classifier.in_features)
    if name == "cifar_mobilenetv2_050":
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    else:
        assert 0.95 * limit < classifier.weight.abs().max().item() <= limit
    if name.startswith("cifar_resnet"):
        assert 0.8 * limit < classifier.bias.abs().max().item() <= limit
    else:
        assert not classifier.bias.any()


def test_wide_resnets_shortcut_begins_after_the_first_relu() -> None:
    block = PreActivatedBlock(4, 6, stride=2)
    images = torch.randn(2, 4, 8, 8)
    active = functional.relu(functional.batch_norm(images, None, None, training=True))
    inner = functional.conv2d(active, block.conv1.weight, stride=2, padding=1)
    inner = functional.relu(functional.batch_norm(inner, None, None, training=True))
    assert block.shortcut is not None
    expected = functional.conv2d(inner, block.conv2.weight, padding=1)
    torch.testing.assert_close(block(images), expected + functional.conv2d(active, block.shortcut.weight, stride=2))
    assert PreActivatedBlock(4, 4, stride=1).shortcut is None


def test_mobilenetv2_expands_its_first_block_and_does_not_clip() -> None:
    model = timm.create_model("cifar_mobilenetv2_050")
    assert model.blocks[0][0].conv_pw.weight.shape == (16, 16, 1, 1)
    assert of(model, nn.ReLU) and not of(model, nn.ReLU6)
    strides = [layer.stride[0] for layer in of(model, nn.Conv2d) if isinstance(layer, nn.Conv2d)]
    assert math.prod(strides) == 16


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A few random images in CIFAR-100's own layout."""
    made = tmp_path_factory.mktemp("cifar100")
    with pytest.MonkeyPatch.context() as patch:
        write_cifar100(made, patch)
        yield made


@pytest.mark.parametrize("student", ["WRN-40-1", "ResNet-20", "ResNet-8x4", "MobileNetV2"])
def test_a_teacher_is_trained_and_distilled_by_dkd(
    benchmark: Profile, folder: Path, tmp_path: Path, student: str
) -> None:
    """The table's own cells of that student, but for an epoch of three steps of 8 images."""
    entries = load_grid(GRID, benchmark, seeds=1).entries
    planned = next(e.cell for e in entries if e.labels["student"] == student and e.labels["loss"] == "dkd")
    assert planned.teacher is not None
    small = {"recipe": planned.recipe.model_copy(update={"batch_size": 8, "micro_batch_size": 8}), "epochs": 1}
    teacher = planned.teacher.model_copy(update=small)
    cell = planned.model_copy(update={**small, "teacher": teacher})
    for made in (teacher, cell):
        receipt = train(tmp_path, made, data_folder=str(folder))[made.cell_id]
        assert receipt is not None and receipt.state == "finished", receipt
        assert receipt.parameters == count_parameters(build_model(made.student, made.dataset, made.seed))
        assert all(math.isfinite(value) for value in receipt.metrics.values())
        initial = dump_weights(build_model(made.student, made.dataset, made.seed))
        assert receipt.weights_sha256 not in (None, sha256(initial))
