"""The shipped losses, datasets and models give the values that were recorded for their REVISION.

If a test fails because you changed what a component computes, raise `REVISION` in its file and record the new values:
`PLD_GRID_RECORD_GOLDEN=1 .venv/bin/python -m pytest tests/train/test_golden_values.py`. Then results of the old code
are not taken for results of the new one.
"""

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from small_datasets import AUGMENTATIONS, make_photos, recipe, write_cifar100, write_folders

from pld_grid.experiment.cell import Dataset, Model
from pld_grid.train import data, losses
from pld_grid.train.models import build_model

FILE = Path(__file__).parent / "golden_values.yaml"
RECORD = bool(os.environ.get("PLD_GRID_RECORD_GOLDEN"))
MODELS = [name for name in timm.list_models() if timm.models.model_entrypoint(name).__module__.startswith("pld_grid.")]
# Beside the defaults.
LOSS_SETTINGS = {
    "kd": [{"divergence": name, "tau": 3.0, "alpha": 0.3} for name in ("forward", "reverse", "js")],
    "pld": [{"weights": name, "tau": 2.0} for name in ("teacher", "uniform", "position")],
}


def summarize(values: torch.Tensor) -> list[float]:
    """Return the mean, and a sum in which each value has its own weight."""
    flat = values.detach().double().flatten()
    return [float(flat.mean()), float(flat @ torch.cos(torch.arange(len(flat), dtype=torch.float64)))]


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(zlib.crc32(str(shape).encode())).standard_normal(shape))


def measure_loss(name: str) -> list[float]:
    student, teacher, labels = 2 * noise(6, 10), 3 * noise(7, 10)[:6], torch.tensor([3, 0, 9, 9, 1, 4])
    measured = []
    for settings in ({}, *LOSS_SETTINGS.get(name, [])):
        for standardization in losses.get_loss_class(name).standardizations:
            logits = student.clone().requires_grad_()
            loss = losses.build(name, standardization=standardization, **settings)(logits, teacher, labels)
            loss.backward()
            measured += [float(loss.detach()), *summarize(logits.grad)]
    return measured


def measure_dataset(name: str, folder: Path, patch: pytest.MonkeyPatch) -> list[float]:
    """Return what describes the first batches of both splits, with and without augmentation."""
    if name == "cifar100":
        write_cifar100(folder, patch)
    elif name == "imagenet":
        write_folders(folder, make_photos())
    info = data.get_module(name).INFO
    classes = 3 if name == "imagenet" else info.num_classes
    dataset = Dataset(name=name, num_classes=classes, channels=info.channels, image_size=32)
    measured = []
    for augmentation in AUGMENTATIONS.values():
        splits = data.load(dataset, recipe(info.channels, augmentation=augmentation), folder)
        for split in (splits.train, splits.validation):
            images, labels = split.batch(np.arange(9), 1, 2)
            measured += [float(len(split)), *summarize(images / 255), *summarize(labels)]
    return measured


def measure_model(name: str) -> list[float]:
    dataset = Dataset(name="digits", num_classes=10, channels=3, image_size=32)
    model = build_model(Model(architecture=name), dataset, 0).eval()
    with torch.no_grad():
        outputs = model(noise(4, 3, 32, 32).float())
    return [float(sum(p.numel() for p in model.parameters())), *summarize(outputs)]


def check(kind: str, name: str, code: str, measured: list[float], tolerance: float = 1e-5) -> None:
    golden = yaml.safe_load(FILE.read_text()) if FILE.exists() else {}
    if RECORD:
        golden.setdefault(kind, {})[name] = {"code": code, "values": measured}
        FILE.write_text(yaml.safe_dump(golden, default_flow_style=None, width=100))
        return
    recorded = golden[kind][name]
    if code == recorded["code"]:
        message = f"{kind} {name} gives other values: raise REVISION in its file (see the docstring of this test)"
        assert measured == pytest.approx(recorded["values"], rel=tolerance, abs=tolerance), message
    else:
        raise AssertionError(
            f"{kind} {name} has the code {code}, its values are those of {recorded['code']}: record them"
        )


@pytest.mark.parametrize("name", losses.available())
def test_loss_gives_its_golden_values(name, registry):
    check("losses", name, registry.losses[name].code, measure_loss(name))


@pytest.mark.parametrize("name", data.available())
def test_dataset_gives_its_golden_values(name, registry, tmp_path, monkeypatch):
    # Resizing rounds some pixels otherwise on other processors.
    check("datasets", name, registry.datasets[name].code, measure_dataset(name, tmp_path, monkeypatch), 1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_model_gives_its_golden_values(name, registry):
    check("models", name, registry.model_code(name), measure_model(name))
