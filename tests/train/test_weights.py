"""Published weights are found in a folder or in the hub's cache, never in a pickle, and loaded as by timm."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from cells import make_cell, make_measured
from huggingface_hub import constants
from published_weights import published_model, write_to_folder, write_to_hub_cache

from pld_grid.experiment.cell import Cell, Dataset, Model, Pretrained
from pld_grid.store import Store
from pld_grid.train.models import Teacher, build_model, normalize_for
from pld_grid.train.weights import WeightsError, check_weights, find_weights, missing_weights

NAME = "test_resnet.r160_in1k"
IMAGENET = Dataset(name="imagenet", num_classes=1000, channels=3, image_size=160)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache of the hub, on a machine that seems to be online."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty folder of weights."""
    folder = tmp_path / "weights"
    folder.mkdir()
    return folder


def model(architecture: str = "test_resnet", tag: str = "r160_in1k", **options: object) -> Model:
    return Model(architecture=architecture, options=options, pretrained=Pretrained(tag=tag))


def measured(chosen: Model | None = None) -> Cell:
    recipe = make_cell().recipe.model_copy(update={"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)})
    return make_measured(student=chosen or model(), dataset=IMAGENET, recipe=recipe)


def images(size: int = 160) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_find_weights_searches_the_folder_before_the_cache(folder, cache):
    assert find_weights(NAME, str(folder)) is None
    cached = write_to_hub_cache(cache, NAME)
    assert find_weights(NAME) == find_weights(NAME, str(folder)) == cached
    local = write_to_folder(folder, NAME)
    assert (find_weights(NAME, str(folder)), find_weights(NAME)) == (local, cached)


def test_find_weights_needs_the_file_of_the_current_revision_in_the_cache(cache):
    file = write_to_hub_cache(cache, NAME)
    revision = cache / f"models--timm--{NAME}" / "refs" / "main"
    revision.write_text("another")
    assert find_weights(NAME) is None
    revision.write_text(file.parent.name)
    assert find_weights(NAME) == file
    file.unlink()
    assert find_weights(NAME) is None


def test_weights_of_cells_and_their_teachers_are_missed_once_each(folder):
    teacher = measured(model("test_vit"))
    student = make_cell(dataset=IMAGENET, recipe=teacher.recipe, teacher=teacher)
    cells = [student, teacher, measured(), student]
    assert missing_weights(cells, str(folder)) == [NAME, "test_vit.r160_in1k"]
    write_to_folder(folder, "test_vit.r160_in1k")
    assert missing_weights(cells, str(folder)) == [NAME]
    assert missing_weights([make_cell()], str(folder)) == []
    # Without a folder, missing weights will be downloaded.
    assert check_weights(cells) == [NAME, "test_vit.r160_in1k"]
    write_to_folder(folder, NAME)
    assert check_weights(cells, str(folder)) == []


def test_check_weights_with_a_folder_names_all_missing_weights(folder, cache):
    with pytest.raises(WeightsError) as raised:
        check_weights([measured(), measured(model("test_vit"))], str(folder))
    message = str(raised.value)
    assert message.isprintable()
    assert message.startswith(f"published weights are missing: {NAME}, test_vit.r160_in1k; looked in {folder} ")
    assert f"(as {NAME}.safetensors) and the hub's cache {cache}" in message
    assert f"`hf download timm/{NAME} model.safetensors`" in message


def test_check_weights_offline_downloads_nothing(monkeypatch, cache):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids downloads; --weights-dir names a folder"):
        check_weights([measured()])
    with pytest.raises(WeightsError, match=f"published weights are missing: {NAME}"):
        build_model(model(), IMAGENET, 0)
    write_to_hub_cache(cache, NAME)
    assert check_weights([measured()]) == []


def test_weights_unknown_to_timm_or_in_an_unknown_folder_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"missing: resnet200\.untrained; looked in the hub's cache"):
        check_weights([measured(model("resnet200", "untrained"))])
    with pytest.raises(WeightsError, match=f"--weights-dir: no such folder: {tmp_path / 'gone'}"):
        missing_weights([], str(tmp_path / "gone"))


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize("place", ["folder", "cache"])
def test_build_model_loads_the_weights_found(folder, cache, architecture, place):
    name = f"{architecture}.r160_in1k"
    write_to_folder(folder, name) if place == "folder" else write_to_hub_cache(cache, name)
    built = build_model(model(architecture), IMAGENET, 0, str(folder) if place == "folder" else None).eval()
    expected = published_model(architecture).eval()
    assert built.state_dict().keys() == expected.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(built(images()), expected(images()))


def test_build_model_adapts_the_weights_as_timm_does(folder):
    """timm resamples the position embedding of a ViT for another image size."""
    file = write_to_folder(folder, "test_vit.r160_in1k")
    built = build_model(model("test_vit", img_size=64), IMAGENET, 0, str(folder)).eval()
    weights = safetensors.torch.load_file(file)
    assert built.state_dict()["pos_embed"].shape == (1, 17, 64)
    assert weights["pos_embed"].shape == (1, 101, 64)
    assert torch.equal(built.state_dict()["head.weight"], weights["head.weight"])
    expected = timm.create_model("test_vit", pretrained=True, img_size=64, pretrained_cfg_overlay={"file": str(file)})
    with torch.no_grad():
        assert torch.equal(built(images(64)), expected.eval()(images(64)))


def test_build_model_loads_safetensors_where_the_hub_has_another_format(folder):
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    published = timm.get_pretrained_cfg(name)
    assert published.custom_load
    file = write_to_folder(folder, name)
    built = build_model(model(*name.split(".")), IMAGENET, 0, str(folder))
    for key, value in safetensors.torch.load_file(file).items():
        assert torch.equal(built.state_dict()[key], value), key


def test_weights_of_another_model_are_refused_by_name(folder):
    write_to_folder(folder, "test_efficientnet.r160_in1k").rename(folder / f"{NAME}.safetensors")
    with pytest.raises(WeightsError, match=f"{NAME}.safetensors: not those of {NAME}: "):
        build_model(model(), IMAGENET, 0, str(folder))


def test_teacher_from_the_folder_has_its_own_normalization(folder, tmp_path):
    write_to_folder(folder, NAME)
    own = model().model_copy(update={"pretrained": Pretrained(tag="r160_in1k", mean=(0.5,) * 3, std=(0.25,) * 3)})
    pixels = (images() * 255).to(torch.uint8)
    expected = published_model("test_resnet").eval()
    for chosen, mean, std in ((own, (0.5,) * 3, (0.25,) * 3), (model(), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))):
        cell = measured(chosen)
        teacher = Teacher(cell, Store(tmp_path / "store"), str(folder))
        plain = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        torch.testing.assert_close(normalize_for(cell)(pixels), plain, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(teacher(pixels), expected(plain), rtol=1e-4, atol=1e-4)
