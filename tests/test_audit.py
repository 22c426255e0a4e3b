"""Audits of published teachers: what is tried, what is measured, and what is nearest to the paper."""

import csv
import io
import itertools
import json
import math
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from published import in_cache, in_folder, published_model
from service import Service
from synthetic import PAPER
from timm.data import ImageNetInfo
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pld_grid.catalogue import Catalogue
from pld_grid.profile import Profile, load_profile
from pld_grid.train.audit import candidates

NORMALISATIONS = {
    "recipe": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "own": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
SMALL = """
description: timm's test models as published teachers
dataset: {name: imagenet, image_size: 64}
recipe:
  batch_size: 50
  micro_batch_size: 50
  mean: [0.485, 0.456, 0.406]
  std: [0.229, 0.224, 0.225]
  evaluation_crop: 0.8
optimizer: lamb
optimizers: {lamb: {learning_rate: 1e-3}}
teachers: {source: pretrained}
models:
  Student: {architecture: test_efficientnet}
  ResNet-152: {architecture: test_resnet, pretrained: {tag: r160_in1k}}
  ViT-Base/16:
    architecture: test_vit
    options: {img_size: 64}
    pretrained: {tag: r160_in1k, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
  MobileNetV4: {architecture: mobilenetv4_conv_small, pretrained: {tag: e2400_r224_in1k}}
"""
GRID = "cells: {teacher: MobileNetV4, student: Student, loss: kd}\n"
ABSENT = [f"mobilenetv4_conv_small.{tag}" for tag in ("e1200_r224_in1k", "e2400_r224_in1k", "e3600_r256_in1k")]


# -- candidates --------------------------------------------------------------------------------------------------------


def small(folder: Path, catalogue: Catalogue, text: str = SMALL) -> Profile:
    path = folder / "small.yaml"
    path.write_text(text)
    return load_profile(path, catalogue)


def test_candidates_are_tags_by_crop_by_resolution_by_normalisation(profile: Callable[[str], Profile]) -> None:
    def found(name: str, tag: str) -> set[tuple[object, ...]]:
        entries = candidates(profile("imagenet"), name)
        return {tuple(e.labels.values())[2:] for e in entries if e.labels["tag"] == tag}

    # As timm publishes them: crop, size, and whether the normalisation is ImageNet's.
    assert found("ResNet-152", "gluon_in1k") == {(0.95, 224, "recipe"), (0.875, 224, "recipe")}
    assert found("ResNet-152", "tv2_in1k") == set(itertools.product((0.95, 0.875), (224, 176), ("recipe",)))
    assert found("MobileNetV4 Conv Large", "e500_r256_in1k") == set(itertools.product((0.95,), (224, 256), ("recipe",)))
    assert found("ViT-Base/16", "orig_in21k_ft_in1k") == set(
        itertools.product((0.95, 0.9), (224,), ("recipe", "own")),
    )


def test_every_tag_of_as_many_classes_is_tried_and_no_other(profile: Callable[[str], Profile]) -> None:
    loaded = profile("imagenet")
    for name, known in loaded.file.models.items():
        if known.pretrained is None:
            continue
        tags = {str(entry.labels["tag"]) for entry in candidates(loaded, name)}
        for tag in loaded.catalogue.tags(known.architecture):
            published = timm.get_pretrained_cfg(f"{known.architecture}.{tag}")
            assert published is not None
            assert (tag in tags) == (published.num_classes == 1000 and bool(published.has_weights)), (name, tag)


def test_each_candidate_is_a_measurement_once_and_the_tables_own_is_among_them(
    profile: Callable[[str], Profile],
) -> None:
    loaded = profile("imagenet")
    for name, known in loaded.file.models.items():
        if known.pretrained is None:
            continue
        entries = candidates(loaded, name)
        ids = [entry.cell.cell_id for entry in entries]
        assert len(set(ids)) == len(ids)
        assert len({tuple(entry.labels.values()) for entry in entries}) == len(entries)
        assert all(entry.cell.is_measurement and entry.labels["teacher"] == name for entry in entries)
        used = next(entry for entry in entries if entry.cell.cell_id == loaded.teacher(name).cell_id)
        assert used.labels["normalisation"] in ("recipe", "own")


def test_a_model_that_is_made_for_one_size_is_made_for_each(tmp_path: Path, catalogue: Catalogue) -> None:
    loaded = small(tmp_path, catalogue)
    sizes = {
        (e.labels["resolution"], e.cell.dataset.image_size, e.cell.student.options["img_size"])
        for e in candidates(loaded, "ViT-Base/16")
    }
    assert sizes == {(64, 64, 64), (160, 160, 160)}
    assert all(e.cell.student.options == {} for e in candidates(loaded, "ResNet-152"))


def test_a_normalisation_that_nobody_published_is_the_profiles(tmp_path: Path, catalogue: Catalogue) -> None:
    text = SMALL.replace("{tag: r160_in1k}", "{tag: r160_in1k, mean: [0, 0, 0], std: [1, 1, 1]}")
    loaded = small(tmp_path, catalogue, text)
    *others, used = candidates(loaded, "ResNet-152")
    assert used.cell == loaded.teacher("ResNet-152")
    assert list(used.labels.values()) == ["ResNet-152", "r160_in1k", 0.8, 64, "profile"]
    assert {entry.labels["normalisation"] for entry in others} == {"recipe", "own"}


def test_profiles_that_train_their_teachers_have_no_candidates(profile: Callable[[str], Profile]) -> None:
    with pytest.raises(ValueError, match="profile digits trains its teachers"):
        candidates(profile("digits"), "ResNet-152")


def test_the_papers_figures_are_those_of_its_tables(profile: Callable[[str], Profile]) -> None:
    def rows(name: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO((PAPER / f"{name}.csv").read_text())))

    teachers = {row["Teacher"]: row for row in rows("teachers")}
    models = profile("imagenet").file.models
    assert set(teachers) == {name for name, model in models.items() if model.pretrained is not None}
    ours = {
        "MobileNet-v4 Hybrid Medium": "MobileNetV4 Hybrid Medium",
        "MobileNet-v4 Conv Large": "MobileNetV4 Conv Large",
        "MobileNet-v4 Large (conv)": "MobileNetV4 Conv Large",
        "ViT-Large": "ViT-Large/16",
    }
    printed = set()
    for row in rows("table03") + rows("table04"):
        teacher = teachers[ours.get(row["Teacher"], row["Teacher"])]
        assert (teacher["Top-1"], teacher["Params(M)"]) == (row["Teacher Top-1"], row["Teacher Params(M)"])
        printed.add(teacher["Teacher"])
    for name in ("table01", "table06"):
        assert rows(name)[0]["Method"] == "Teacher (ResNet-152)"
        assert rows(name)[0]["Top-1"] == teachers["ResNet-152"]["Top-1"]
    assert [name for name, row in teachers.items() if not row["Top-1"]] == [*(set(teachers) - printed)]


# -- a whole audit -----------------------------------------------------------------------------------------------------


def write_images(folder: Path) -> None:
    """A thousand classes of one image each; training images are only counted."""
    random = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    for number, name in enumerate(ImageNetInfo().label_names()):
        train, validation = (folder / split / name for split in ("train", "validation"))
        for made in (train, validation):
            made.mkdir(parents=True)
        (train / "0.JPEG").write_bytes(buffer.getvalue())
        coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        size = (80, 72) if number % 2 else (72, 80)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        image.save(validation / "0.JPEG", quality=95)


def read_images(folder: Path, size: int, crop: float) -> Tensor:
    """The validation images as torchvision prepares them, (1000, 3, size, size) uint8; number n is of class n."""
    shorter = math.ceil(size / crop)
    images = []
    for file in sorted((folder / "validation").glob("*/0.JPEG")):
        whole = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
        height, width = (shorter * side // min(whole.shape[1:]) for side in whole.shape[1:])
        resized = F.resize(whole, [height, width], InterpolationMode.BICUBIC, antialias=True)
        images.append(F.center_crop(resized, [size, size]))
    return torch.stack(images)


def normalized(images: Tensor, normalisation: str) -> Iterator[Tensor]:
    """Batches of floats."""
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALISATIONS[normalisation])
    for part in images.split(50):
        yield (part / 255 - mean) / std


@torch.no_grad()
def teach(model: nn.Module, images: Tensor, normalisation: str) -> nn.Module:
    """Gives a model a head that names the image whose features are nearest: right for these, less so for others."""
    parts = [model.forward_features(part) for part in normalized(images, normalisation)]
    features = torch.cat([model.forward_head(part, pre_logits=True) for part in parts])
    head = model.get_classifier()
    head.weight.copy_(features)
    head.bias.copy_(-features.square().sum(1) / 2)
    return model


@torch.no_grad()
def accuracies(model: nn.Module, images: Tensor, normalisation: str) -> tuple[float, float]:
    """Top-1 and top-5 in percent, counted plainly."""
    logits = torch.cat([model(part) for part in normalized(images, normalisation)])
    right = logits.topk(5).indices == torch.arange(len(images))[:, None]
    return 100 * right[:, 0].double().mean().item(), 100 * right.any(1).double().mean().item()


class Audited:
    """A folder with images, weights and the paper's figures, in which the small profile was audited."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.service = Service(folder, profile=SMALL, grid=GRID)
        self.service.environment |= {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
        paper = folder / "reports" / "paper" / "teachers.csv"
        paper.parent.mkdir(parents=True)
        paper.write_text("Teacher,Place,Top-1,Params(M)\nResNet-152,Table 4,99.90,0.5\nViT-Base/16,Table 4,99.90,0.4\n")
        self.images, self.weights = folder / "images", folder / "weights"
        self.weights.mkdir()
        write_images(self.images)
        self.models = {
            "ResNet-152": teach(published_model("test_resnet").eval(), read_images(self.images, 64, 0.8), "recipe"),
            "ViT-Base/16": teach(published_model("test_vit").eval(), read_images(self.images, 160, 0.95), "own"),
        }
        in_folder(self.weights, "test_resnet.r160_in1k", self.models["ResNet-152"])
        in_cache(folder / "hf" / "hub", "test_vit.r160_in1k", self.models["ViT-Base/16"])
        self.out, self.err = self.audit()

    def audit(self, *more: str, code: int = 0) -> tuple[str, str]:
        places = ("--data-dir", str(self.images), "--weights-dir", str(self.weights))
        return self.service.run(
            "audit-teachers", "--profile", "tiny.yaml", *places, "--out", "audit.csv", *more, code=code
        )

    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO((self.service.folder / "audit.csv").read_text())))


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    return Audited(tmp_path_factory.mktemp("audited"))


def test_every_candidate_is_measured_as_a_plain_evaluation_does(audited: Audited) -> None:
    measured = {
        (row["teacher"], int(row["resolution"]), float(row["crop"]), row["normalisation"]): row
        for row in audited.rows()
        if row["state"] == "finished"
    }
    assert set(measured) == set(itertools.product(audited.models, (64, 160), (0.8, 0.95), ("recipe", "own")))
    for size, crop in itertools.product((64, 160), (0.8, 0.95)):
        images = read_images(audited.images, size, crop)
        for (name, model), normalisation in itertools.product(audited.models.items(), ("recipe", "own")):
            row = measured[name, size, crop, normalisation]
            # One image is a tenth of a percent: the order of a sum may decide a tie.
            assert (float(row["top1"]), float(row["top5"])) == pytest.approx(
                accuracies(model, images, normalisation), abs=0.101
            ), (name, size, crop, normalisation)
            # The ViT for smaller images has an embedding for fewer places.
            fewer = 64 * (10**2 - 4**2) if name.startswith("ViT") and size == 64 else 0
            assert int(row["parameters"]) == sum(weight.numel() for weight in model.parameters()) - fewer
            assert tuple(map(float, row["mean"].split())) == NORMALISATIONS[normalisation][0]
    for name in audited.models:
        numbers = [float(row["top1"]) for key, row in measured.items() if key[0] == name]
        assert max(numbers) > 99
        assert len(set(numbers)) > 4, "crop, resolution and normalisation make a difference"


def test_the_best_match_and_the_profiles_own_are_marked(audited: Audited) -> None:
    for name, expected in {"ResNet-152": ("0.8", "64", "recipe"), "ViT-Base/16": ("0.95", "160", "own")}.items():
        rows = [row for row in audited.rows() if row["teacher"] == name]
        (best,) = [row for row in rows if row["best match"] == "yes"]
        assert (best["crop"], best["resolution"], best["normalisation"]) == expected
        assert float(best["difference"]) == pytest.approx(float(best["top1"]) - 99.9, abs=0.006)
        assert all(abs(float(best["top1"]) - 99.9) <= abs(float(row["top1"]) - 99.9) for row in rows)
        (used,) = [row for row in rows if row["in profile"] == "yes"]
        assert (used["crop"], used["resolution"]) == ("0.8", "64")
    assert "ResNet-152: the paper has 99.90 % with 0.5 M parameters (Table 4)" in audited.out
    assert re.search(r"profile uses r160_in1k, recipe normalisation, crop 0.8, 64 pixels: .* best match", audited.out)


def test_weights_that_are_not_there_are_listed_and_the_others_measured(audited: Audited) -> None:
    assert f"not measured, as their weights are missing: {', '.join(ABSENT)}" in audited.out
    absent = [row for row in audited.rows() if row["teacher"] == "MobileNetV4"]
    assert {f"mobilenetv4_conv_small.{row['tag']}" for row in absent} == set(ABSENT)
    assert {(row["state"], row["top1"], row["best match"]) for row in absent} == {("weights missing", "-", "no")}


def test_mlflow_has_every_candidate_with_its_result(audited: Audited) -> None:
    expected = {row["mlflow_run_id"]: float(row["top1"]) for row in audited.rows() if row["state"] == "finished"}
    with sqlite3.connect(audited.service.folder / ".pld_grid" / "mlflow.db") as connection:
        logged = dict(connection.execute("select run_uuid, value from metrics where key = 'top1'"))
        grids = dict(connection.execute("select run_uuid, value from tags where key = 'pld_grid.grids'"))
    assert logged == pytest.approx(expected, abs=0.0006)
    assert {grids[run] for run in expected} == {"audit-teachers"}


def test_a_second_audit_measures_nothing_and_says_the_same(audited: Audited) -> None:
    before = {path: path.stat().st_mtime_ns for path in audited.service.store.rglob("receipt.json")}
    table = (audited.service.folder / "audit.csv").read_bytes()
    out, err = audited.audit()
    assert "Nothing to train: all 16 cells are finished." in err
    assert out == audited.out
    assert (audited.service.folder / "audit.csv").read_bytes() == table
    assert {path: path.stat().st_mtime_ns for path in audited.service.store.rglob("receipt.json")} == before


def test_what_was_measured_is_shown_after_its_weights_are_gone(audited: Audited) -> None:
    file = audited.weights / "test_resnet.r160_in1k.safetensors"
    away = file.rename(file.with_suffix(".away"))
    try:
        out, _ = audited.audit("--teacher", "ResNet-152")
    finally:
        away.rename(file)
    assert "best match" in out
    assert "weights are missing" not in out


@pytest.mark.parametrize(
    "command",
    [("audit-teachers", "--teacher", "MobileNetV4", "--profile", "tiny.yaml"), ("run",)],
    ids=["audit-teachers", "run"],
)
def test_missing_weights_are_one_line_before_ray_starts(tmp_path: Path, command: tuple[str, ...]) -> None:
    service = Service(tmp_path, profile=SMALL, grid=GRID)
    service.environment |= {"HF_HOME": str(tmp_path / "hf"), "RAY_TMPDIR": str(tmp_path / "ray")}
    for name in ("images", "weights"):
        (tmp_path / name).mkdir()
    out, err = service.run(*command, "--data-dir", "images", "--weights-dir", "weights", code=2)
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: published weights are missing: mobilenetv4_conv_small.e")
    assert "looked in weights (as mobilenetv4_conv_small." in err
    assert not (tmp_path / "ray").exists()
    assert not list(service.store.glob("*/cell.json"))


def test_plan_says_which_weights_are_not_here(tmp_path: Path) -> None:
    service = Service(tmp_path, profile=SMALL, grid=GRID)
    service.environment |= {"HF_HOME": str(tmp_path / "hf")}
    name = "mobilenetv4_conv_small.e2400_r224_in1k"
    assert f"published weights that are not on this machine: {name}" in service.run("plan")[0]
    weights = tmp_path / "weights"
    weights.mkdir()
    in_folder(weights, name)
    out, _ = service.run("plan", "--weights-dir", "weights", "--json")
    assert json.loads(out)["missing_weights"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--profile", "digits"), "--profile: no model of digits has published weights"),
        (("--profile", "tiny.yaml", "--teacher", "ViT-Base"), '--teacher: unknown model "ViT-Base"'),
        (("--profile", "tiny.yaml", "--teacher", "Student"), '--teacher: "Student" has no published weights'),
        (("--profile", "tiny.yaml", "--weights-dir", "gone"), "--weights-dir: no such folder: gone"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    out, err = Service(tmp_path, profile=SMALL).run("audit-teachers", *arguments, code=2)
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {said}")
