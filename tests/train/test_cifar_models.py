"""The benchmark's networks on CIFAR-100: sizes, shapes, initial weights, and a training of each pair."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from small_datasets import write_cifar100
from torch import nn
from torch.nn import functional
from trainable_cells import train

from pld_grid.experiment.grid import load_grid
from pld_grid.experiment.profile import Profile, find_profile
from pld_grid.store import sha256
from pld_grid.train.models import build_model, count_parameters, dump_weights
from pld_grid.train.models.cifar_resnet import PreActivatedBlock

pytestmark = pytest.mark.slow

GRID = find_profile("cifar100-benchmark").parent.parent / "cifar100.yaml"
CLASSES = 100

# Parameters, and their number in millions as printed in the literature.
PARAMETERS = {
    "WRN-40-2": (2_255_156, "2.26"),
    "WRN-40-1": (569_780, "0.57"),
    "ResNet-56": (861_620, "0.86"),
    "ResNet-20": (278_324, "0.28"),
    "ResNet-32x4": (7_433_860, "7.43"),
    "ResNet-8x4": (1_233_540, "1.23"),
    "ResNet-50": (23_705_252, "23.71"),
    "MobileNetV2": (812_836, "0.81"),
}
MODELS = timm.list_models("cifar_*")


@pytest.fixture(scope="module")
def benchmark(profile: Callable[[str], Profile]) -> Profile:
    return profile("cifar100-benchmark")


@pytest.mark.parametrize(("name", "expected", "printed"), [(name, *row) for name, row in PARAMETERS.items()])
def test_parameters_are_as_in_the_literature(benchmark, name, expected, printed):
    assert count_parameters(build_model(benchmark.student(name), benchmark.dataset, seed=0)) == expected
    assert f"{expected / 1e6:.2f}" == printed


def test_profile_uses_all_networks(benchmark):
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
def test_feature_maps_and_head_have_timms_interface(name, shape):
    model = timm.create_model(name).eval()
    images = torch.randn(2, 3, 32, 32)
    maps = model.forward_features(images)
    assert maps.shape == (2, *shape)
    classifier = model.get_classifier()
    torch.testing.assert_close(model.forward_head(maps, pre_logits=True), maps.mean((2, 3)))
    torch.testing.assert_close(model(images), classifier(maps.mean((2, 3))))
    assert (classifier.in_features, classifier.out_features) == (model.num_features, CLASSES)


@pytest.mark.parametrize("name", MODELS)
def test_network_accepts_any_number_of_classes_channels_and_pixels(registry, name):
    assert name in registry.models
    assert registry.pretrained_classes(name) == {}
    model = timm.create_model(name, num_classes=7, in_chans=1).eval()
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 7)
    model.reset_classifier(5)
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 5)
    assert model.num_classes == 5
    headless = timm.create_model(name, num_classes=0).eval()
    assert headless(torch.zeros(2, 3, 32, 32)).shape == (2, headless.num_features)
    with pytest.raises(RuntimeError):
        timm.create_model(name, pretrained=True)


def list_layers(model: nn.Module, layer_type: type[nn.Module]) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, layer_type)]


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_are_as_in_the_literature(name):
    torch.manual_seed(0)
    model = timm.create_model(name)
    for layer in list_layers(model, nn.Conv2d):
        assert isinstance(layer, nn.Conv2d) and layer.bias is None
        # As in the benchmark, groups do not count, so depthwise convolutions start small.
        deviation = math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))
        spread = 5 * deviation / math.sqrt(2 * layer.weight.numel())  # five standard errors
        assert layer.weight.std().item() == pytest.approx(deviation, abs=spread)
    for layer in list_layers(model, nn.BatchNorm2d):
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


def test_wide_resnet_shortcut_starts_after_the_first_relu():
    block = PreActivatedBlock(4, 6, stride=2)
    images = torch.randn(2, 4, 8, 8)
    active = functional.relu(functional.batch_norm(images, None, None, training=True))
    inner = functional.conv2d(active, block.conv1.weight, stride=2, padding=1)
    inner = functional.relu(functional.batch_norm(inner, None, None, training=True))
    expected = functional.conv2d(inner, block.conv2.weight, padding=1)
    torch.testing.assert_close(block(images), expected + functional.conv2d(active, block.shortcut.weight, stride=2))
    assert PreActivatedBlock(4, 4, stride=1).shortcut is None


def test_mobilenetv2_expands_its_first_block_and_uses_relu():
    model = timm.create_model("cifar_mobilenetv2_050")
    assert model.blocks[0][0].conv_pw.weight.shape == (16, 16, 1, 1)
    assert list_layers(model, nn.ReLU) and not list_layers(model, nn.ReLU6)
    strides = [layer.stride[0] for layer in list_layers(model, nn.Conv2d) if isinstance(layer, nn.Conv2d)]
    assert math.prod(strides) == 16


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A few random images in CIFAR-100's own layout."""
    folder = tmp_path_factory.mktemp("cifar100")
    with pytest.MonkeyPatch.context() as patch:
        write_cifar100(folder, patch)
        yield folder


@pytest.mark.parametrize("student", ["WRN-40-1", "ResNet-20", "ResNet-8x4", "MobileNetV2"])
def test_dkd_training_of_a_pair_finishes(benchmark, folder, tmp_path, student):
    """Trains the table's cells of a student for one epoch of three batches of 8 images."""
    entries = load_grid(GRID, benchmark, seeds=1).entries
    planned = next(e.cell for e in entries if e.labels["student"] == student and e.labels["loss"] == "dkd")
    small = {"recipe": planned.recipe.model_copy(update={"batch_size": 8, "micro_batch_size": 8}), "epochs": 1}
    teacher = planned.teacher.model_copy(update=small)
    cell = planned.model_copy(update={**small, "teacher": teacher})
    for trained in (teacher, cell):
        receipt = train(tmp_path, trained, data_folder=str(folder))[trained.cell_id]
        assert receipt.state == "finished", receipt
        assert receipt.parameters == count_parameters(build_model(trained.student, trained.dataset, trained.seed))
        assert all(math.isfinite(value) for value in receipt.metrics.values())
        initial = dump_weights(build_model(trained.student, trained.dataset, trained.seed))
        assert receipt.weights_sha256 not in (None, sha256(initial))
