"""Teacher audits: the candidates, their measurements, and the best match with the paper."""

import csv
import io
import itertools
import json
import math
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from cli_process import Service
from paper_records import PAPER
from PIL import Image
from published_weights import published_model, write_to_folder, write_to_hub_cache
from timm.data import ImageNetInfo
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pld_grid.experiment.profile import Profile, load_profile
from pld_grid.experiment.registry import Registry
from pld_grid.paper.teacher_candidates import list_candidates

NORMALISATIONS = {"recipe": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "own": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}
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


def load_small_profile(folder: Path, registry: Registry, text: str = SMALL) -> Profile:
    path = folder / "small.yaml"
    path.write_text(text)
    return load_profile(path, registry)


def test_candidates_combine_tags_crops_resolutions_and_normalisations(profile):
    def list_values(name: str, tag: str) -> set[tuple[object, ...]]:
        entries = list_candidates(profile("imagenet"), name)
        return {tuple(e.labels.values())[2:] for e in entries if e.labels["tag"] == tag}

    # As published by timm: crop, size, and whether the normalisation is ImageNet's.
    assert list_values("ResNet-152", "gluon_in1k") == {(0.95, 224, "recipe"), (0.875, 224, "recipe")}
    assert list_values("ResNet-152", "tv2_in1k") == set(itertools.product((0.95, 0.875), (224, 176), ("recipe",)))
    assert list_values("MobileNetV4 Conv Large", "e500_r256_in1k") == set(
        itertools.product((0.95,), (224, 256), ("recipe",))
    )
    assert list_values("ViT-Base/16", "orig_in21k_ft_in1k") == set(
        itertools.product((0.95, 0.9), (224,), ("recipe", "own"))
    )


def test_candidates_have_all_tags_with_the_datasets_classes(profile):
    loaded = profile("imagenet")
    for name, known in loaded.file.models.items():
        if known.pretrained is None:
            continue
        tags = {str(entry.labels["tag"]) for entry in list_candidates(loaded, name)}
        for tag in loaded.registry.pretrained_classes(known.architecture):
            published = timm.get_pretrained_cfg(f"{known.architecture}.{tag}")
            assert (tag in tags) == (published.num_classes == 1000 and bool(published.has_weights)), (name, tag)


def test_candidates_are_unique_measurements_and_include_the_profiles(profile):
    loaded = profile("imagenet")
    for name, known in loaded.file.models.items():
        if known.pretrained is None:
            continue
        entries = list_candidates(loaded, name)
        ids = [entry.cell.cell_id for entry in entries]
        assert len(set(ids)) == len(ids)
        assert len({tuple(entry.labels.values()) for entry in entries}) == len(entries)
        assert all(entry.cell.is_measurement and entry.labels["teacher"] == name for entry in entries)
        used = next(entry for entry in entries if entry.cell.cell_id == loaded.teacher(name).cell_id)
        assert used.labels["normalisation"] in ("recipe", "own")


def test_candidates_of_a_fixed_size_model_set_its_image_size(tmp_path, registry):
    loaded = load_small_profile(tmp_path, registry)
    sizes = {
        (e.labels["resolution"], e.cell.dataset.image_size, e.cell.student.options["img_size"])
        for e in list_candidates(loaded, "ViT-Base/16")
    }
    assert sizes == {(64, 64, 64), (160, 160, 160)}
    assert all(e.cell.student.options == {} for e in list_candidates(loaded, "ResNet-152"))


def test_candidate_with_an_unpublished_normalisation_is_labelled_profile(tmp_path, registry):
    text = SMALL.replace("{tag: r160_in1k}", "{tag: r160_in1k, mean: [0, 0, 0], std: [1, 1, 1]}")
    loaded = load_small_profile(tmp_path, registry, text)
    *others, used = list_candidates(loaded, "ResNet-152")
    assert used.cell == loaded.teacher("ResNet-152")
    assert list(used.labels.values()) == ["ResNet-152", "r160_in1k", 0.8, 64, "profile"]
    assert {entry.labels["normalisation"] for entry in others} == {"recipe", "own"}


def test_candidates_of_a_profile_that_trains_teachers_raise(profile):
    with pytest.raises(ValueError, match="profile digits trains its teachers"):
        list_candidates(profile("digits"), "ResNet-152")


def test_teachers_csv_agrees_with_the_papers_tables(profile):
    def rows(name: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO((PAPER / f"{name}.csv").read_text())))

    teachers = {row["Teacher"]: row for row in rows("teachers")}
    models = profile("imagenet").file.models
    assert set(teachers) == {name for name, model in models.items() if model.pretrained is not None}
    names = {
        "MobileNet-v4 Hybrid Medium": "MobileNetV4 Hybrid Medium",
        "MobileNet-v4 Conv Large": "MobileNetV4 Conv Large",
        "MobileNet-v4 Large (conv)": "MobileNetV4 Conv Large",
        "ViT-Large": "ViT-Large/16",
    }
    printed = set()
    for row in rows("table03") + rows("table04"):
        teacher = teachers[names.get(row["Teacher"], row["Teacher"])]
        assert (teacher["Top-1"], teacher["Params(M)"]) == (row["Teacher Top-1"], row["Teacher Params(M)"])
        printed.add(teacher["Teacher"])
    for name in ("table01", "table06"):
        assert rows(name)[0]["Method"] == "Teacher (ResNet-152)"
        assert rows(name)[0]["Top-1"] == teachers["ResNet-152"]["Top-1"]
    assert [name for name, row in teachers.items() if not row["Top-1"]] == [*(set(teachers) - printed)]


# -- a whole audit -----------------------------------------------------------------------------------------------------


def write_images(folder: Path) -> None:
    """Writes a thousand classes of one image each; training images are only counted."""
    random = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    for number, name in enumerate(ImageNetInfo().label_names()):
        train, validation = (folder / split / name for split in ("train", "validation"))
        for parent in (train, validation):
            parent.mkdir(parents=True)
        (train / "0.JPEG").write_bytes(buffer.getvalue())
        coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        size = (80, 72) if number % 2 else (72, 80)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        image.save(validation / "0.JPEG", quality=95)


def read_images(folder: Path, size: int, crop: float) -> Tensor:
    """Returns the validation images as prepared by torchvision, (1000, 3, size, size) uint8; image n is of class n."""
    shorter = math.ceil(size / crop)
    images = []
    for file in sorted((folder / "validation").glob("*/0.JPEG")):
        whole = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
        height, width = (shorter * side // min(whole.shape[1:]) for side in whole.shape[1:])
        resized = F.resize(whole, [height, width], InterpolationMode.BICUBIC, antialias=True)
        images.append(F.center_crop(resized, [size, size]))
    return torch.stack(images)


def normalize_batches(images: Tensor, normalisation: str) -> Iterator[Tensor]:
    """Yields normalized batches."""
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALISATIONS[normalisation])
    for part in images.split(50):
        yield (part / 255 - mean) / std


@torch.no_grad()
def fit_head(model: nn.Module, images: Tensor, normalisation: str) -> nn.Module:
    """Gives a model a nearest-feature head: correct on these images, less so on images prepared otherwise."""
    parts = [model.forward_features(part) for part in normalize_batches(images, normalisation)]
    features = torch.cat([model.forward_head(part, pre_logits=True) for part in parts])
    head = model.get_classifier()
    head.weight.copy_(features)
    head.bias.copy_(-features.square().sum(1) / 2)
    return model


@torch.no_grad()
def measure_accuracies(model: nn.Module, images: Tensor, normalisation: str) -> tuple[float, float]:
    """Returns top-1 and top-5 in percent."""
    logits = torch.cat([model(part) for part in normalize_batches(images, normalisation)])
    correct = logits.topk(5).indices == torch.arange(len(images))[:, None]
    return 100 * correct[:, 0].double().mean().item(), 100 * correct.any(1).double().mean().item()


class Audited:
    """A folder with images, weights and the paper's figures, and an audit of the small profile."""

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
            "ResNet-152": fit_head(published_model("test_resnet").eval(), read_images(self.images, 64, 0.8), "recipe"),
            "ViT-Base/16": fit_head(published_model("test_vit").eval(), read_images(self.images, 160, 0.95), "own"),
        }
        write_to_folder(self.weights, "test_resnet.r160_in1k", self.models["ResNet-152"])
        write_to_hub_cache(folder / "hf" / "hub", "test_vit.r160_in1k", self.models["ViT-Base/16"])
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


@pytest.mark.ray
def test_every_measurement_equals_a_plain_evaluation(audited):
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
            # One image is a tenth of a percent, and the order of a sum may decide a tie.
            assert (float(row["top1"]), float(row["top5"])) == pytest.approx(
                measure_accuracies(model, images, normalisation), abs=0.101
            ), (name, size, crop, normalisation)
            # The ViT for smaller images has fewer position embeddings.
            fewer = 64 * (10**2 - 4**2) if name.startswith("ViT") and size == 64 else 0
            assert int(row["parameters"]) == sum(weight.numel() for weight in model.parameters()) - fewer
            assert tuple(map(float, row["mean"].split())) == NORMALISATIONS[normalisation][0]
    for name in audited.models:
        numbers = [float(row["top1"]) for key, row in measured.items() if key[0] == name]
        assert max(numbers) > 99
        assert len(set(numbers)) > 4, "crop, resolution and normalisation make a difference"


@pytest.mark.ray
def test_best_match_and_profile_are_marked(audited):
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


@pytest.mark.ray
def test_missing_weights_are_listed_and_the_others_measured(audited):
    assert f"not measured, as their weights are missing: {', '.join(ABSENT)}" in audited.out
    absent = [row for row in audited.rows() if row["teacher"] == "MobileNetV4"]
    assert {f"mobilenetv4_conv_small.{row['tag']}" for row in absent} == set(ABSENT)
    assert {(row["state"], row["top1"], row["best match"]) for row in absent} == {("weights missing", "-", "no")}


@pytest.mark.ray
def test_mlflow_has_every_measured_candidate(audited):
    expected = {row["mlflow_run_id"]: float(row["top1"]) for row in audited.rows() if row["state"] == "finished"}
    with sqlite3.connect(audited.service.folder / ".pld_grid" / "mlflow.db") as connection:
        logged = dict(connection.execute("select run_uuid, value from metrics where key = 'top1'"))
        grids = dict(connection.execute("select run_uuid, value from tags where key = 'pld_grid.grids'"))
    assert logged == pytest.approx(expected, abs=0.0006)
    assert {grids[run] for run in expected} == {"audit-teachers"}


@pytest.mark.ray
def test_a_second_audit_measures_nothing_and_prints_the_same(audited):
    before = {path: path.stat().st_mtime_ns for path in audited.service.store.rglob("receipt.json")}
    table = (audited.service.folder / "audit.csv").read_bytes()
    out, err = audited.audit()
    assert "Nothing to train: all 16 cells are finished." in err
    assert out == audited.out
    assert (audited.service.folder / "audit.csv").read_bytes() == table
    assert {path: path.stat().st_mtime_ns for path in audited.service.store.rglob("receipt.json")} == before


@pytest.mark.ray
def test_finished_candidates_are_shown_after_their_weights_are_removed(audited):
    file = audited.weights / "test_resnet.r160_in1k.safetensors"
    removed = file.rename(file.with_suffix(".removed"))
    try:
        out, _ = audited.audit("--teacher", "ResNet-152")
    finally:
        removed.rename(file)
    assert "best match" in out
    assert "weights are missing" not in out


@pytest.mark.parametrize(
    "command",
    [("audit-teachers", "--teacher", "MobileNetV4", "--profile", "tiny.yaml"), ("run",)],
    ids=["audit-teachers", "run"],
)
@pytest.mark.slow
def test_missing_weights_raise_one_line_before_ray_starts(tmp_path, command):
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


@pytest.mark.slow
def test_plan_lists_missing_weights(tmp_path):
    service = Service(tmp_path, profile=SMALL, grid=GRID)
    service.environment |= {"HF_HOME": str(tmp_path / "hf")}
    name = "mobilenetv4_conv_small.e2400_r224_in1k"
    assert f"published weights that are not on this machine: {name}" in service.run("plan")[0]
    weights = tmp_path / "weights"
    weights.mkdir()
    write_to_folder(weights, name)
    out, _ = service.run("plan", "--weights-dir", "weights", "--json")
    assert json.loads(out)["missing_weights"] == []
