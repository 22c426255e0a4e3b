"""`pld-grid check-data` on valid and invalid datasets."""

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from paths import ROOT
from pyarrow import parquet
from small_datasets import FORMATS, SYNSETS, damage, make_photos, select_split, write_cifar100

from pld_grid.train import discovery
from pld_grid.train.data import cifar100, imagenet

Run = Callable[..., tuple[int, str, str]]
PHOTOS = make_photos()
every_format = pytest.mark.parametrize("form", FORMATS)


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `pld-grid check-data ARGUMENTS`; return exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "100")
    return functools.partial(run, "check-data")


def parse_table(out: str) -> dict[str, str]:
    """Returns the table's lines by their first column."""
    cells = (re.split(" {2,}", line.strip()) for line in out.splitlines())
    return {name: " ".join(others) for name, *others in cells}


@pytest.fixture
def small(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretends that ImageNet has 3 classes of 4 images in each split."""
    sizes: dict[str, Any] = {"num_classes": 3, "train_size": 12, "validation_size": 12, "validation_per_class": 4}
    monkeypatch.setattr(imagenet, "INFO", replace(imagenet.INFO, **sizes))
    # The profile's published teachers have a thousand classes.
    profile = ROOT / "grids" / "profiles" / "imagenet.yaml"
    lines = [line for line in profile.read_text().splitlines() if "pretrained: {" not in line]
    Path("small.yaml").write_text(re.sub(r"batch_size: \d+", "batch_size: 12", "\n".join(lines)))
    discovery.load.cache_clear()
    yield
    discovery.load.cache_clear()


def test_check_data_of_digits_passes(run):
    code, out, err = run("--profile", "digits")
    assert (code, err) == (0, "")
    checks = parse_table(out)
    assert checks["train images"] == "1,442 1,442"
    assert checks["validation images"] == "355 355"
    assert checks["train classes"] == checks["validation classes"] == "10 10"
    assert checks["train images that can be read"] == "1,442 of 1,442"


def test_check_data_of_a_small_cifar100_names_the_sizes(run, tmp_path, monkeypatch):
    write_cifar100(tmp_path / "data", monkeypatch)
    code, out, err = run("--profile", "cifar100", "--data-dir", "data")
    assert code == 2
    assert err == "error: train classes: 24, expected 100\n"
    for problem in ("train images: 24, expected 50,000", "validation images: 9, expected 10,000"):
        assert problem in out
    assert "validation images per class: expected 100, class 0 has 1; 99 more classes differ" in out
    sizes = {"num_classes": 100, "train_size": 24, "validation_size": 9, "validation_per_class": None}
    monkeypatch.setattr(cifar100, "INFO", replace(cifar100.INFO, **sizes))
    code, out, err = run("--profile", "cifar100", "--data-dir", "data")
    assert (code, parse_table(out)["train images"]) == (2, "24 24")


@every_format
@pytest.mark.parametrize("arguments", [(), ("--sample", "5"), ("--all",)])
def test_check_data_of_a_valid_imagenet_passes(run, small, form, arguments):
    FORMATS[form](Path("data"), PHOTOS)
    code, out, err = run("--profile", "small.yaml", "--data-dir", "data", *arguments)
    assert (code, err) == (0, "")
    checks, read = parse_table(out), "5 of 5" if "--sample" in arguments else "12 of 12"
    for split in ("train", "validation"):
        assert checks[f"{split} classes"] == "3 3"
        assert checks[f"{split} images"] == "12 12"
        assert checks[f"{split} images that can be read"] == read
        assert checks[f"{split} format"] in ("image folders", "WebDataset tar shards", "Hugging Face parquet")
    assert checks["validation images per class"] == "4 4"


@every_format
@pytest.mark.parametrize("arguments", [(), ("--all",)])
def test_check_data_lists_all_problems(run, small, form, arguments):
    photos = damage(PHOTOS, "train", (1, 8))
    missing = [select_split("train", photos)[0], select_split("validation", photos)[5]]
    FORMATS[form](Path("data"), [photo for photo in photos if photo not in missing])
    code, out, err = run("--profile", "small.yaml", "--data-dir", "data", *arguments)
    assert code == 2
    assert err == "error: train images: 11, expected 12\n"
    assert "validation images: 11, expected 12" in out
    assert "validation images per class: expected 4, class 1 has 3\n" in out
    line = next(line for line in out.splitlines() if line.startswith("train: 2 of 11 images are damaged: "))
    assert all(select_split("train", photos)[number].stem in line for number in (1, 8))
    assert parse_table(out)["train images that can be read"] == "9 of 11"
    assert parse_table(out)["validation images that can be read"] == "11 of 11"


def test_check_data_with_a_sample_covers_all_classes(run, small):
    FORMATS["folders"](Path("data"), damage(PHOTOS, "train", (0, 11)))
    code, out, _ = run("--profile", "small.yaml", "--data-dir", "data", "--sample", "3")
    assert code == 2
    assert parse_table(out)["train images that can be read"] == "1 of 3"
    assert all(synset in out for synset in (SYNSETS[0], SYNSETS[2]))


def test_check_data_of_a_full_size_imagenet_counts_each_class(run):
    Path("data").mkdir()
    for split, count in (("train", 1000), ("val", 49_999)):
        labels = [number % 1000 for number in range(count)]
        table = pa.table({"image": [{"bytes": PHOTOS[0].data}] * count, "label": labels})
        parquet.write_table(table, Path("data") / f"{split}.parquet", row_group_size=100)
    code, out, err = run("--profile", "imagenet", "--data-dir", "data", "--sample", "9")
    assert (code, err) == (2, "error: train images: 1,000, expected 1,281,167\n")
    assert "validation images: 49,999, expected 50,000" in out
    assert "validation images per class: expected 50, class 999 has 49\n" in out
    assert parse_table(out)["validation classes"] == "1,000 1,000"
    assert parse_table(out)["validation images that can be read"] == "9 of 9"
