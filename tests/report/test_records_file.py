"""Test `records.jsonl`: exact numbers, redacted reasons, and refusal of damaged files."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cells import make_cell, make_distilled, make_epochs, make_receipt
from paper_records import make_record

from pld_grid.report.records_file import RECORDS_FILE, Origin, load_records, redact_records, serialize_records
from pld_grid.store.records import CellRecord
from pld_grid.util.errors import InputError

ORIGIN = Origin(grids=("table02", "table01"), profile="digits", seeds=3, mlflow="http://127.0.0.1:5000")


def make_full_record(seed: int) -> CellRecord:
    """Return a finished cell's record, with numbers that a careless conversion would change."""
    cell = make_distilled(seed=seed)
    odd = {"tiny": 5e-324, "third": 1 / 3, "large": 1e100, "minus": -0.0, "whole": 7.0}
    receipt = make_receipt(cell)
    epochs = (*make_epochs(2), make_epochs(3)[-1].model_copy(update={"metrics": odd}))
    return make_record(cell, metrics=odd, epochs=epochs, provenance=receipt.provenance, experiment_id="1")


def write_records(folder: Path, *records: CellRecord) -> list[str]:
    """Write the file and return its lines."""
    folder.mkdir(exist_ok=True)
    text = serialize_records({record.cell_id: record for record in records}, ORIGIN)
    (folder / RECORDS_FILE).write_text(text)
    return text.splitlines()


def test_load_records_returns_what_was_serialized(tmp_path):
    queued = make_record(make_cell(), "queued", metrics={}, parameters=None, epoch=0)
    records = {record.cell_id: record for record in (make_full_record(1), make_full_record(2), queued)}
    lines = write_records(tmp_path, *records.values())
    origin, loaded = load_records(tmp_path)
    assert origin == ORIGIN
    assert loaded == records
    for cell_id, record in records.items():  # 0.0 == -0.0
        assert repr(sorted(loaded[cell_id].metrics.items())) == repr(sorted(record.metrics.items()))
    assert [json.loads(line)["cell_id"] for line in lines[1:]] == sorted(records)
    assert serialize_records(loaded, origin).splitlines() == lines


def test_changed_number_changes_the_checksum(tmp_path):
    lines = write_records(tmp_path, make_full_record(1), make_full_record(2))
    seconds = repr(make_epochs(1)[0].metrics["seconds"])  # no table prints it
    assert seconds in lines[2]
    changed = [*lines[:2], lines[2].replace(seconds, "1.5", 1)]
    (tmp_path / RECORDS_FILE).write_text("".join(f"{line}\n" for line in changed))
    origin, loaded = load_records(tmp_path)
    again = serialize_records(loaded, origin).splitlines()
    assert (again[0] != lines[0], again[1:]) == (True, changed[1:])


def test_serialize_equal_records_gives_equal_bytes(tmp_path):
    one, two = make_full_record(1), make_full_record(2)
    turned = replace(one, metrics=dict(reversed(one.metrics.items())))
    assert write_records(tmp_path, one, two) == write_records(tmp_path, two, turned)


@pytest.mark.parametrize(
    ("reason", "redacted"),
    [
        ("No such file or directory: '/home/ada/data/train/n01'", "No such file or directory: '.../n01'"),
        ("at /srv/store/x.pt:12 (see ~/logs/y.txt)", "at .../x.pt:12 (see .../y.txt)"),
        ("cannot open sqlite:////home/ada/mlflow.db", "cannot open .../mlflow.db"),
        ("refused by https://ada:s3cret@db.lab/a/b", "refused by https://db.lab/a/b"),
        ("loss is nan at 3/4 of epoch 2 and/or later", "loss is nan at 3/4 of epoch 2 and/or later"),
        ("s3://bucket/a/b has no x", "s3://bucket/a/b has no x"),
    ],
)
def test_redact_records_removes_folders_and_passwords(reason, redacted):
    record = make_record(make_cell(), "failed", reason=reason)
    assert redact_records({record.cell_id: record}, [record.cell_id]) == {
        record.cell_id: replace(record, reason=redacted)
    }


@pytest.mark.parametrize("part", ["://", "@://", "/a:", "~/", "-a://@"])
def test_redact_records_of_long_reason_is_fast(part):
    record = make_record(make_cell(), "failed", reason=part * 60_000)
    started = time.thread_time()
    assert redact_records({record.cell_id: record}, [record.cell_id])
    assert time.thread_time() - started < 2


def test_redact_records_selects_cells():
    one, two = make_full_record(1), make_full_record(2)
    assert list(redact_records({one.cell_id: one, two.cell_id: two}, [two.cell_id, "0" * 16])) == [two.cell_id]


def test_load_records_missing_file_names_the_command(tmp_path):
    with pytest.raises(InputError, match=r"records\.jsonl: no such file; `pld-grid report` writes it"):
        load_records(tmp_path)


def without(line: str, name: str) -> str:
    return json.dumps({k: v for k, v in json.loads(line).items() if k != name})


DAMAGE = {
    "an empty file": (lambda lines: [], r":1: not JSON: "),
    "no header": (lambda lines: lines[1:], r":1: its format is None, and this version reads 1"),
    "a later format": (lambda lines: ['{"format": 2}', *lines[1:]], r":1: its format is 2, and this version reads 1"),
    "half a header": (lambda lines: ['{"format": 1}', *lines[1:]], r":1: grids: field required"),
    "a cut line": (lambda lines: [*lines[:2], lines[2][:50]], r":3: not JSON: "),
    "no object": (lambda lines: [lines[0], "[1, 2]"], r":2: not a JSON object"),
    "NaN": (lambda lines: [lines[0], lines[1].replace("7.0", "NaN")], r":2: not JSON: NaN is not a number"),
    "a missing part": (lambda lines: [lines[0], without(lines[1], "epoch")], r':2: "epoch" is missing'),
    "an odd part": (
        lambda lines: [lines[0], '{"colour":1,' + lines[1][1:]],
        r':2: "colour" is not a field of a record',
    ),
    "a text": (lambda lines: [lines[0], lines[1].replace("7.0", '"x"')], r":2: \S+: expected a number"),
    "an odd state": (lambda lines: [lines[0], lines[1].replace('"finished"', '"done"')], r":2: state: unknown value"),
    "a cell twice": (lambda lines: [*lines, lines[1]], r":4: cell \w+ appears twice"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_load_records_damaged_file_names_the_line(tmp_path, damage):
    change, message = DAMAGE[damage]
    lines = write_records(tmp_path, make_full_record(1), make_full_record(2))
    (tmp_path / RECORDS_FILE).write_text("".join(f"{line}\n" for line in change(lines)))
    with pytest.raises(InputError, match=message) as caught:
        load_records(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / RECORDS_FILE}:")
    assert "\n" not in str(caught.value)
