"""`pld-grid check-data`, through the command line: what it says of good data and of bad."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from rich.console import Console
from small_datasets import FORMATS, SYNSETS, damage, of, photos, write_cifar100

from pld_grid import cli
from pld_grid.train import catalogue
from pld_grid.train.data import cifar100, imagenet

Run = Callable[..., tuple[int, str, str]]
MADE = photos()
every_format = pytest.mark.parametrize("form", FORMATS)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `pld-grid check-data ARGUMENTS`; (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("PLD_GRID_DATA", raising=False)
    for name in ("errors", "output"):
        monkeypatch.setattr(cli.console, name, Console(stderr=name == "errors", force_terminal=False))

    def go(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["pld-grid", "check-data", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return go


def rows(out: str) -> dict[str, str]:
    """The table: what was looked at, and the rest of its line."""
    cells = (re.split(" {2,}", line.strip()) for line in out.splitlines())
    return {name: " ".join(others) for name, *others in cells}


@pytest.fixture
def small(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """ImageNet as if it had 3 classes of 4 images in each split."""
    sizes: dict[str, Any] = {"num_classes": 3, "train_size": 12, "validation_size": 12, "validation_per_class": 4}
    monkeypatch.setattr(imagenet, "INFO", replace(imagenet.INFO, **sizes))
    # The profile's published teachers know a thousand.
    profile = Path(__file__).parent.parent / "grids" / "profiles" / "imagenet.yaml"
    lines = [line for line in profile.read_text().splitlines() if "pretrained: {" not in line]
    Path("small.yaml").write_text(re.sub(r"batch_size: \d+", "batch_size: 12", "\n".join(lines)))
    catalogue.load.cache_clear()
    yield
    catalogue.load.cache_clear()


def test_digits_are_right(run: Run) -> None:
    code, out, err = run("--profile", "digits")
    assert (code, err) == (0, "")
    found = rows(out)
    assert found["train images"] == "1,442 1,442"
    assert found["validation images"] == "355 355"
    assert found["train classes"] == found["validation classes"] == "10 10"
    assert found["train images that can be read"] == "1,442 of 1,442"


def test_cifar100_is_compared_with_its_known_sizes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert (code, rows(out)["train images"]) == (2, "24 24")


@every_format
@pytest.mark.parametrize("arguments", [(), ("--sample", "5"), ("--all",)])
def test_a_whole_imagenet_is_right(run: Run, small: None, form: str, arguments: tuple[str, ...]) -> None:
    FORMATS[form](Path("data"), MADE)
    code, out, err = run("--profile", "small.yaml", "--data-dir", "data", *arguments)
    assert (code, err) == (0, "")
    found, read = rows(out), "5 of 5" if "--sample" in arguments else "12 of 12"
    for split in ("train", "validation"):
        assert found[f"{split} classes"] == "3 3"
        assert found[f"{split} images"] == "12 12"
        assert found[f"{split} images that can be read"] == read
        assert found[f"{split} format"] in ("image folders", "WebDataset tar shards", "Hugging Face parquet")
    assert found["validation images per class"] == "4 4"


@every_format
@pytest.mark.parametrize("arguments", [(), ("--all",)])
def test_everything_that_is_wrong_is_listed(run: Run, small: None, form: str, arguments: tuple[str, ...]) -> None:
    made = damage(MADE, "train", (1, 8))
    gone = [of("train", made)[0], of("validation", made)[5]]
    FORMATS[form](Path("data"), [photo for photo in made if photo not in gone])
    code, out, err = run("--profile", "small.yaml", "--data-dir", "data", *arguments)
    assert code == 2
    assert err == "error: train images: 11, expected 12\n"
    assert "validation images: 11, expected 12" in out
    assert "validation images per class: expected 4, class 1 has 3\n" in out
    line = next(line for line in out.splitlines() if line.startswith("train: 2 of 11 images are damaged: "))
    assert all(of("train", made)[number].stem in line for number in (1, 8))
    assert rows(out)["train images that can be read"] == "9 of 11"
    assert rows(out)["validation images that can be read"] == "11 of 11"


def test_a_sample_is_spread_over_the_classes(run: Run, small: None) -> None:
    """Of three images, one of each class: the first, the middle one and the last of all."""
    FORMATS["folders"](Path("data"), damage(MADE, "train", (0, 11)))
    code, out, _ = run("--profile", "small.yaml", "--data-dir", "data", "--sample", "3")
    assert code == 2
    assert rows(out)["train images that can be read"] == "1 of 3"
    assert all(synset in out for synset in (SYNSETS[0], SYNSETS[2]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--profile", "imagenet"), "dataset imagenet needs a data folder (--data-dir)"),
        (("--profile", "imagenet", "--data-dir", "gone"), "dataset imagenet: no such folder: gone"),
        (("--profile", "imagenet", "--data-dir", "data"), "data: train has 3 classes, not 1000"),
        (("--profile", "imagenet", "--data-dir", "data/train"), "data/train needs the folders train/ and validation/"),
        (("--profile", "imagenot"), 'unknown profile "imagenot"'),
    ],
)
def test_what_cannot_be_loaded_is_one_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    FORMATS["folders"](Path("data"), MADE)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err


def test_imagenet_needs_fifty_validation_images_of_each_class(run: Run) -> None:
    """At its real size: a thousand classes, and all validation images but one."""
    Path("data").mkdir()
    for split, count in (("train", 1000), ("val", 49_999)):
        labels = [number % 1000 for number in range(count)]
        table = pa.table({"image": [{"bytes": MADE[0].data}] * count, "label": labels})
        parquet.write_table(table, Path("data") / f"{split}.parquet", row_group_size=100)
    code, out, err = run("--profile", "imagenet", "--data-dir", "data", "--sample", "9")
    assert (code, err) == (2, "error: train images: 1,000, expected 1,281,167\n")
    assert "validation images: 49,999, expected 50,000" in out
    assert "validation images per class: expected 50, class 999 has 49\n" in out
    assert rows(out)["validation classes"] == "1,000 1,000"
    assert rows(out)["validation images that can be read"] == "9 of 9"
