"""Models: the digits profile's stand-ins, their initial weights, their round trips, the input normalisation."""

import json
from collections.abc import Callable

import pytest
import timm
import torch
import yaml

from pld_grid.catalogue import Catalogue
from pld_grid.grid import load_grid
from pld_grid.profile import Profile, find_profile
from pld_grid.spec import Model
from pld_grid.train import data
from pld_grid.train.models import Normalize, build_model, count_parameters, dump_weights, load_weights

MODELS = yaml.safe_load(find_profile("digits").read_text())["models"]
NARROW = timm.list_models("mobilenetv4_*_narrow")
# The tables' pairs: teacher, then its students.
PAIRS = [
    ("ResNet-152", "ResNet-50"),
    ("MobileNetV4 Conv Large", "MobileNetV4 Hybrid Medium"),
    ("MobileNetV4 Conv Large", "MobileNetV4 Conv Medium"),
    ("MobileNetV4 Conv Large", "MobileNetV4 Conv Small"),
    ("MobileNetV4 Conv Large", "ResNet-50"),
    ("MobileNetV4 Hybrid Medium", "ResNet-50"),
    ("MobileNetV4 Hybrid Large", "MobileNetV4 Conv Small"),
    ("ViT-Large/16", "ViT-Small/16"),
    ("ViT-Large/16", "ViT-Base/16"),
    ("ViT-Large/16", "ResNet-50"),
    ("ViT-Base/16", "ResNet-50"),
]


@pytest.fixture(scope="module")
def digits(profile: Callable[[str], Profile]) -> Profile:
    return profile("digits")


def make(digits: Profile, name: str, seed: int = 0) -> torch.nn.Module:
    return build_model(digits.student(name), digits.dataset, seed)


def images(digits: Profile, count: int = 3) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn(count, digits.dataset.channels, *[digits.dataset.image_size] * 2, generator=random)


def states(model: torch.nn.Module) -> dict[str, list[float]]:
    return {name: value.flatten().tolist() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_the_profile_gives_logits_in_training_and_evaluation(digits: Profile, name: str) -> None:
    model = make(digits, name)
    assert model(images(digits)).shape == (3, digits.dataset.num_classes)
    logits = model.eval()(images(digits))
    assert logits.shape == (3, digits.dataset.num_classes)
    assert torch.isfinite(logits).all()


def test_every_name_of_the_paper_has_its_own_architecture(digits: Profile) -> None:
    architectures = [digits.student(name).architecture for name in MODELS]
    assert len(MODELS) == 10
    assert len(set(architectures)) == len(architectures)


def test_the_pairs_are_those_of_the_grids(catalogue: Catalogue, digits: Profile) -> None:
    names = {json.dumps(digits.student(name).model_dump(mode="json"), sort_keys=True): name for name in MODELS}

    def name_of(model: Model) -> str:
        return names[json.dumps(model.model_dump(mode="json"), sort_keys=True)]

    folder = find_profile("digits").parent.parent
    found = {
        (name_of(cell.teacher.student), name_of(cell.student))
        for path in folder.glob("table*.yaml")
        for cell in load_grid(path, digits).cells()
        if cell.teacher is not None
    }
    assert found == set(PAIRS)


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_a_teacher_is_larger_than_its_student(digits: Profile, teacher: str, student: str) -> None:
    assert count_parameters(make(digits, teacher)) > count_parameters(make(digits, student))


def test_narrow_mobilenets_are_in_timms_registry_and_in_the_catalogue(catalogue: Catalogue) -> None:
    assert len(NARROW) == 5
    for name in NARROW:
        assert timm.is_model(name)
        assert name in catalogue.models
        assert catalogue.tags(name) == ()


@pytest.mark.parametrize("name", NARROW)
def test_a_narrow_mobilenet_takes_any_number_of_classes_and_channels(name: str) -> None:
    model = timm.create_model(name, num_classes=7, in_chans=3).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", NARROW)
def test_a_narrow_mobilenet_has_no_published_weights(name: str) -> None:
    with pytest.raises(RuntimeError):
        timm.create_model(name, pretrained=True)


def test_hybrid_mobilenets_attend_and_the_others_do_not() -> None:
    for name in NARROW:
        kinds = {type(module).__name__ for module in timm.create_model(name).modules()}
        assert ("MobileAttention" in kinds) == ("hybrid" in name)


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_depend_on_seed_and_architecture_alone(digits: Profile, name: str) -> None:
    torch.manual_seed(1)
    first = states(make(digits, name))
    torch.manual_seed(2)
    make(digits, "ResNet-152")
    assert states(make(digits, name)) == first
    assert states(make(digits, name, seed=1)) != first


def test_building_a_model_leaves_the_global_generator_alone(digits: Profile) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    make(digits, "ViT-Small/16")
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_weights_round_trip(digits: Profile, name: str, channels_last: bool) -> None:
    model = make(digits, name)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    model(images(digits, 8))  # running statistics that are not the initial ones
    other = make(digits, name, seed=1)
    load_weights(other, dump_weights(model))
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    assert dump_weights(other) == dump_weights(model)


def test_normalize_is_pixels_over_255_less_mean_over_deviation() -> None:
    pixels = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).to(torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalized = Normalize(mean, std)(pixels)
    expected = (pixels.double() / 255 - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1)
    assert normalized.dtype == torch.float32
    torch.testing.assert_close(normalized.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_profiles_mean_and_deviation_are_those_of_its_training_images(digits: Profile) -> None:
    images_NCHW = data.load(digits.dataset, digits.recipe).train.images_NCHW  # type: ignore[attr-defined]
    pixels = images_NCHW.double() / 255
    assert pixels.mean().item() == pytest.approx(digits.recipe.mean[0], abs=1e-4)
    assert pixels.std(correction=0).item() == pytest.approx(digits.recipe.std[0], abs=1e-4)
