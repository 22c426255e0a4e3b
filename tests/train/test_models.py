"""Models of the digits profile: shapes, initial weights, saving and loading, input normalization."""

import pytest
import timm
import torch
import yaml

from pld_grid.experiment.grid import load_grid
from pld_grid.experiment.profile import Profile, find_profile
from pld_grid.train import data
from pld_grid.train.models import Normalize, build_model, count_parameters, dump_weights, load_weights

MODELS = yaml.safe_load(find_profile("digits").read_text())["models"]
KINDS = ("conv_small", "conv_medium", "conv_large", "hybrid_medium", "hybrid_large")
NARROW = [f"mobilenetv4_{kind}_narrow" for kind in KINDS]
# The teachers of the shipped grids and their students.
STUDENTS = {
    "ResNet-152": ["ResNet-50"],
    "MobileNetV4 Conv Large": [
        *(f"MobileNetV4 {kind}" for kind in ("Hybrid Medium", "Conv Medium", "Conv Small")),
        "ResNet-50",
    ],
    "MobileNetV4 Hybrid Medium": ["ResNet-50"],
    "MobileNetV4 Hybrid Large": ["MobileNetV4 Conv Small"],
    "ViT-Large/16": ["ViT-Small/16", "ViT-Base/16", "ResNet-50"],
    "ViT-Base/16": ["ResNet-50"],
}


def build(digits: Profile, name: str, seed: int = 0) -> torch.nn.Module:
    return build_model(digits.student(name), digits.dataset, seed)


def draw_images(digits: Profile, count: int = 3) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn(count, digits.dataset.channels, *[digits.dataset.image_size] * 2, generator=random)


def list_weights(model: torch.nn.Module) -> dict[str, list[float]]:
    return {name: value.flatten().tolist() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", MODELS)
def test_model_gives_logits_in_training_and_evaluation(digits, name):
    model = build(digits, name)
    assert model(draw_images(digits)).shape == (3, digits.dataset.num_classes)
    logits = model.eval()(draw_images(digits))
    assert logits.shape == (3, digits.dataset.num_classes)
    assert torch.isfinite(logits).all()


def test_every_name_of_the_paper_has_its_own_architecture(digits):
    architectures = [digits.student(name).architecture for name in MODELS]
    assert len(MODELS) == 10
    assert len(set(architectures)) == len(architectures)


def test_teachers_of_the_grids_are_larger_than_their_students(digits):
    names = {digits.student(name).canonical: name for name in MODELS}
    grids = find_profile("digits").parent.parent.glob("table*.yaml")
    cells = [cell for path in grids for cell in load_grid(path, digits).cells()]
    pairs = {(names[c.teacher.student.canonical], names[c.student.canonical]) for c in cells if c.teacher is not None}
    assert pairs == {(teacher, student) for teacher, students in STUDENTS.items() for student in students}
    sizes = {name: count_parameters(build(digits, name)) for pair in pairs for name in pair}
    assert [(teacher, student) for teacher, student in pairs if sizes[teacher] <= sizes[student]] == []


@pytest.mark.parametrize("name", NARROW)
def test_narrow_mobilenet_is_registered_without_published_weights(registry, name):
    assert timm.is_model(name) and name in registry.models
    assert registry.pretrained_classes(name) == {}
    with pytest.raises(RuntimeError):
        timm.create_model(name, pretrained=True)


@pytest.mark.parametrize("name", NARROW)
def test_narrow_mobilenet_accepts_any_number_of_classes_and_channels(name):
    model = timm.create_model(name, num_classes=7, in_chans=3).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    attention = any(type(module).__name__ == "MobileAttention" for module in model.modules())
    assert attention == ("hybrid" in name)


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_depend_only_on_seed_and_architecture(digits, name):
    torch.manual_seed(1)
    first = list_weights(build(digits, name))
    torch.manual_seed(2)
    build(digits, "ResNet-152")
    assert list_weights(build(digits, name)) == first
    assert list_weights(build(digits, name, seed=1)) != first


def test_build_model_does_not_change_the_global_generator(digits):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build(digits, "ViT-Small/16")
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_dumped_weights_load_into_the_same_model(digits, name, channels_last):
    model = build(digits, name)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    model(draw_images(digits, 8))  # changes the running statistics
    other = build(digits, name, seed=1)
    load_weights(other, dump_weights(model))
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    assert dump_weights(other) == dump_weights(model)


def test_normalize_subtracts_the_mean_and_divides_by_the_deviation():
    pixels = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).to(torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalized = Normalize(mean, std)(pixels)
    expected = (pixels.double() / 255 - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1)
    assert normalized.dtype == torch.float32
    torch.testing.assert_close(normalized.double(), expected, rtol=1e-5, atol=1e-6)


def test_profile_has_the_mean_and_deviation_of_its_training_images(digits):
    images_NCHW = data.load(digits.dataset, digits.recipe).train.images_NCHW  # type: ignore[attr-defined]
    pixels = images_NCHW.double() / 255
    assert pixels.mean().item() == pytest.approx(digits.recipe.mean[0], abs=1e-4)
    assert pixels.std(correction=0).item() == pytest.approx(digits.recipe.std[0], abs=1e-4)
