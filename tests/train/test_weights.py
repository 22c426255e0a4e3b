"""Published weights: found in a folder or in the hub's cache, never in a pickle, and loaded as timm loads its own."""

import pickle
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from cells import make_cell, make_measured
from huggingface_hub import constants
from published import in_cache, in_folder, published_model

from pld_grid.errors import PldGridError
from pld_grid.spec import Cell, Dataset, Model, Pretrained
from pld_grid.store import Store
from pld_grid.train.models import Teacher, build_model, normalize_for
from pld_grid.train.weights import WeightsError, check_weights, find_weights, missing_weights

NAME = "test_resnet.r160_in1k"
IMAGENET = Dataset(name="imagenet", num_classes=1000, channels=3, image_size=160)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, on a machine that is online as far as anybody looks."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "weights"
    made.mkdir()
    return made


def model(architecture: str = "test_resnet", tag: str = "r160_in1k", **options: object) -> Model:
    return Model(architecture=architecture, options=options, pretrained=Pretrained(tag=tag))


def measured(chosen: Model | None = None) -> Cell:
    recipe = make_cell().recipe.model_copy(update={"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)})
    return make_measured(student=chosen or model(), dataset=IMAGENET, recipe=recipe)


def images(size: int = 160) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_weights_are_found_in_the_folder_first_then_in_the_cache(folder: Path, cache: Path) -> None:
    assert find_weights(NAME, str(folder)) is None
    cached = in_cache(cache, NAME)
    assert find_weights(NAME) == cached
    assert find_weights(NAME, str(folder)) == cached
    local = in_folder(folder, NAME)
    assert find_weights(NAME, str(folder)) == local
    assert find_weights(NAME) == cached


def test_a_cache_without_the_file_or_of_another_revision_has_none(cache: Path) -> None:
    file = in_cache(cache, NAME)
    (cache / f"models--timm--{NAME}" / "refs" / "main").write_text("another")
    assert find_weights(NAME) is None
    (cache / f"models--timm--{NAME}" / "refs" / "main").write_text(file.parent.name)
    assert find_weights(NAME) == file
    file.unlink()
    assert find_weights(NAME) is None


def test_missing_weights_are_those_of_cells_and_of_their_teachers_each_once(folder: Path) -> None:
    taught = measured(model("test_vit"))
    student = make_cell(dataset=IMAGENET, recipe=taught.recipe, teacher=taught)
    cells = [student, taught, measured(), student]
    assert missing_weights(cells, str(folder)) == [NAME, "test_vit.r160_in1k"]
    in_folder(folder, "test_vit.r160_in1k")
    assert missing_weights(cells, str(folder)) == [NAME]
    assert missing_weights([make_cell()], str(folder)) == []


def test_online_missing_weights_are_left_to_timm(folder: Path) -> None:
    assert check_weights([measured()]) == [NAME]
    in_folder(folder, NAME)
    assert check_weights([measured()], str(folder)) == []


def test_with_a_folder_nothing_is_fetched_and_all_that_is_missing_is_named(folder: Path, cache: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        check_weights([measured(), measured(model("test_vit"))], str(folder))
    said = str(caught.value)
    assert isinstance(caught.value, PldGridError)
    assert said.isprintable()
    assert said.startswith(f"published weights are missing: {NAME}, test_vit.r160_in1k; looked in {folder} ")
    assert f"(as {NAME}.safetensors) and the hub's cache {cache}" in said
    assert f"`hf download timm/{NAME} model.safetensors`" in said


def test_offline_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids that here; --weights-dir names a folder"):
        check_weights([measured()])
    with pytest.raises(WeightsError, match=f"published weights are missing: {NAME}"):
        build_model(model(), IMAGENET, 0)
    in_cache(cache, NAME)
    assert check_weights([measured()]) == []


def test_what_timm_never_published_is_missing_online_too() -> None:
    with pytest.raises(WeightsError, match=r"missing: resnet200\.untrained; looked in the hub's cache"):
        check_weights([measured(model("resnet200", "untrained"))])


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"--weights-dir: no such folder: {tmp_path / 'gone'}"):
        missing_weights([], str(tmp_path / "gone"))


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pt"])
def test_a_pickle_is_refused_and_said(folder: Path, suffix: str) -> None:
    torch.save(published_model("test_resnet").state_dict(), folder / f"{NAME}{suffix}")
    with pytest.raises(WeightsError, match=f"refused {NAME}{suffix}: a pickle can run code"):
        check_weights([measured()], str(folder))
    with pytest.raises(WeightsError, match=f"refused {NAME}{suffix}"):
        build_model(model(), IMAGENET, 0, str(folder))


def test_a_pickle_under_a_false_name_is_not_opened(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> object:
            return Path.touch, (tmp_path / "sprung",)

    (folder / f"{NAME}.safetensors").write_bytes(pickle.dumps(Trap()))
    for refused in (lambda: check_weights([measured()], str(folder)), lambda: find_weights(NAME, str(folder))):
        with pytest.raises(WeightsError, match=f"{NAME}.safetensors: not a whole safetensors file"):
            refused()
    assert not (tmp_path / "sprung").exists()


def test_a_file_that_was_cut_short_is_refused_beforehand(folder: Path) -> None:
    file = in_folder(folder, NAME)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        check_weights([measured()], str(folder))


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize("place", ["folder", "cache"])
def test_a_model_is_built_from_what_is_found(folder: Path, cache: Path, architecture: str, place: str) -> None:
    name = f"{architecture}.r160_in1k"
    in_folder(folder, name) if place == "folder" else in_cache(cache, name)
    built = build_model(model(architecture), IMAGENET, 0, str(folder) if place == "folder" else None).eval()
    expected = published_model(architecture).eval()
    assert built.state_dict().keys() == expected.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(built(images()), expected(images()))


def test_timm_adapts_the_file_as_it_adapts_its_own(folder: Path) -> None:
    """A ViT for another size: timm resamples its position embedding, here as from any file."""
    file = in_folder(folder, "test_vit.r160_in1k")
    built = build_model(model("test_vit", img_size=64), IMAGENET, 0, str(folder)).eval()
    weights = safetensors.torch.load_file(file)
    assert built.state_dict()["pos_embed"].shape == (1, 17, 64)
    assert weights["pos_embed"].shape == (1, 101, 64)
    assert torch.equal(built.state_dict()["head.weight"], weights["head.weight"])
    expected = timm.create_model("test_vit", pretrained=True, img_size=64, pretrained_cfg_overlay={"file": str(file)})
    with torch.no_grad():
        assert torch.equal(built(images(64)), expected.eval()(images(64)))


def test_weights_that_the_hub_keeps_in_another_format_load_from_safetensors(folder: Path) -> None:
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    published = timm.get_pretrained_cfg(name)
    assert published is not None
    assert published.custom_load
    file = in_folder(folder, name)
    built = build_model(model(*name.split(".")), IMAGENET, 0, str(folder))
    for key, value in safetensors.torch.load_file(file).items():
        assert torch.equal(built.state_dict()[key], value), key


def test_another_models_weights_are_refused_by_name(folder: Path) -> None:
    in_folder(folder, "test_efficientnet.r160_in1k").rename(folder / f"{NAME}.safetensors")
    with pytest.raises(WeightsError, match=f"{NAME}.safetensors: not those of {NAME}: "):
        build_model(model(), IMAGENET, 0, str(folder))


def test_a_teacher_comes_from_the_folder_with_its_own_normalisation(folder: Path, tmp_path: Path) -> None:
    in_folder(folder, NAME)
    own = model().model_copy(
        update={"pretrained": Pretrained(tag="r160_in1k", mean=(0.5,) * 3, std=(0.25,) * 3)},
    )
    pixels = (images() * 255).to(torch.uint8)
    expected = published_model("test_resnet").eval()
    for chosen, mean, std in ((own, (0.5,) * 3, (0.25,) * 3), (model(), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))):
        cell = measured(chosen)
        teacher = Teacher(cell, Store(tmp_path / "store"), str(folder))
        plain = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        torch.testing.assert_close(normalize_for(cell)(pixels), plain, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(teacher(pixels), expected(plain), rtol=1e-4, atol=1e-4)
