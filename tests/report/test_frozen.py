"""`records.jsonl`: what a report is made of, exactly, and nothing that is nobody's business."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cells import make_cell, make_distilled, make_epochs, make_receipt
from synthetic import make_record

from pld_grid.errors import InputError
from pld_grid.records import Record
from pld_grid.report.frozen import FILE, Origin, dump, load, public

ORIGIN = Origin(grids=("table02", "table01"), profile="digits", seeds=3, mlflow="http://127.0.0.1:5000")


def full_record(seed: int) -> Record:
    """A finished cell's, with numbers that a careless conversion changes."""
    cell = make_distilled(seed=seed)
    odd = {"tiny": 5e-324, "third": 1 / 3, "large": 1e100, "minus": -0.0, "whole": 7.0}
    receipt = make_receipt(cell)
    epochs = (*make_epochs(2), make_epochs(3)[-1].model_copy(update={"metrics": odd}))
    return make_record(cell, metrics=odd, epochs=epochs, provenance=receipt.provenance, experiment_id="1")


def frozen(folder: Path, *records: Record) -> list[str]:
    """Writes a file and returns its lines."""
    folder.mkdir(exist_ok=True)
    text = dump({record.cell_id: record for record in records}, ORIGIN)
    (folder / FILE).write_text(text)
    return text.splitlines()


def test_what_is_written_is_read_back(tmp_path: Path):
    queued = make_record(make_cell(), "queued", metrics={}, parameters=None, epoch=0)
    records = {record.cell_id: record for record in (full_record(1), full_record(2), queued)}
    lines = frozen(tmp_path, *records.values())
    origin, found = load(tmp_path)
    assert origin == ORIGIN
    assert found == records
    for cell_id, record in records.items():  # 0.0 == -0.0
        assert repr(sorted(found[cell_id].metrics.items())) == repr(sorted(record.metrics.items()))
    assert [json.loads(line)["cell_id"] for line in lines[1:]] == sorted(records)
    assert dump(found, origin).splitlines() == lines


def test_a_number_changed_by_hand_is_not_what_would_be_written(tmp_path: Path):
    lines = frozen(tmp_path, full_record(1), full_record(2))
    seconds = repr(make_epochs(1)[0].metrics["seconds"])  # no table prints it
    assert seconds in lines[2]
    changed = [*lines[:2], lines[2].replace(seconds, "1.5", 1)]
    (tmp_path / FILE).write_text("".join(f"{line}\n" for line in changed))
    origin, found = load(tmp_path)
    again = dump(found, origin).splitlines()
    assert (again[0] != lines[0], again[1:]) == (True, changed[1:])


def test_equal_records_give_equal_bytes(tmp_path: Path):
    one, two = full_record(1), full_record(2)
    turned = replace(one, metrics=dict(reversed(one.metrics.items())))
    assert frozen(tmp_path, one, two) == frozen(tmp_path, two, turned)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("No such file or directory: '/home/ada/data/train/n01'", "No such file or directory: '.../n01'"),
        ("at /srv/store/x.pt:12 (see ~/logs/y.txt)", "at .../x.pt:12 (see .../y.txt)"),
        ("cannot open sqlite:////home/ada/mlflow.db", "cannot open .../mlflow.db"),
        ("refused by https://ada:s3cret@db.lab/a/b", "refused by https://db.lab/a/b"),
        ("loss is nan at 3/4 of epoch 2 and/or later", "loss is nan at 3/4 of epoch 2 and/or later"),
        ("s3://bucket/a/b has no x", "s3://bucket/a/b has no x"),
    ],
)
def test_reasons_name_no_folder_and_no_password(reason: str, said: str):
    record = make_record(make_cell(), "failed", reason=reason)
    assert public({record.cell_id: record}, [record.cell_id]) == {record.cell_id: replace(record, reason=said)}


@pytest.mark.parametrize("part", ["://", "@://", "/a:", "~/", "-a://@"])
def test_long_reasons_take_no_time(part: str):
    record = make_record(make_cell(), "failed", reason=part * 60_000)
    started = time.thread_time()
    assert public({record.cell_id: record}, [record.cell_id])
    assert time.thread_time() - started < 2


def test_only_the_wanted_cells_are_public():
    one, two = full_record(1), full_record(2)
    assert list(public({one.cell_id: one, two.cell_id: two}, [two.cell_id, "0" * 16])) == [two.cell_id]


def test_a_folder_without_records_says_what_writes_them(tmp_path: Path):
    with pytest.raises(InputError, match=r"records\.jsonl: there is no such file; `pld-grid report` writes it"):
        load(tmp_path)


def without(line: str, name: str) -> str:
    return json.dumps({k: v for k, v in json.loads(line).items() if k != name})


DAMAGE = {
    "an empty file": (lambda lines: [], r":1: is no JSON: "),
    "no header": (lambda lines: lines[1:], r":1: its format is None, and this version reads 1"),
    "a later format": (lambda lines: ['{"format": 2}', *lines[1:]], r":1: its format is 2, and this version reads 1"),
    "half a header": (lambda lines: ['{"format": 1}', *lines[1:]], r":1: grids: field required"),
    "a cut line": (lambda lines: [*lines[:2], lines[2][:50]], r":3: is no JSON: "),
    "no object": (lambda lines: [lines[0], "[1, 2]"], r":2: is no JSON object"),
    "NaN": (lambda lines: [lines[0], lines[1].replace("7.0", "NaN")], r":2: is no JSON: NaN is no number"),
    "a missing part": (lambda lines: [lines[0], without(lines[1], "epoch")], r':2: "epoch" is missing'),
    "an odd part": (lambda lines: [lines[0], '{"colour":1,' + lines[1][1:]], r':2: "colour" is no part of a record'),
    "a text": (lambda lines: [lines[0], lines[1].replace("7.0", '"x"')], r":2: \S+: expected a number"),
    "an odd state": (lambda lines: [lines[0], lines[1].replace('"finished"', '"done"')], r":2: state: unknown value"),
    "a cell twice": (lambda lines: [*lines, lines[1]], r":4: cell \w+ is there twice"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, damage: str):
    change, message = DAMAGE[damage]
    lines = frozen(tmp_path, full_record(1), full_record(2))
    (tmp_path / FILE).write_text("".join(f"{line}\n" for line in change(lines)))
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / FILE}:")
    assert "\n" not in str(caught.value)
