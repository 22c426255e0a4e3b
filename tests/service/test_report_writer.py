"""Errors of reports: lost records, names that are paths, files that cannot be written."""

import json
from pathlib import Path

import pytest
from cells import finish

from pld_grid.service import loading, report_writer
from pld_grid.service.workspace import Workspace
from pld_grid.store import Store
from pld_grid.util.errors import InputError

CELLS = "cells: {student: ResNet-50, loss: [ce, ls]}"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path / "store"), f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_write_report_from_records_refuses_to_drop_records(grid, workspace, tmp_path):
    whole, part = grid(CELLS), grid("cells: {student: ResNet-50, loss: ce}")
    for cell in whole.cells():
        finish(Store(workspace.store), cell)
    out = tmp_path / "report"
    report_writer.write_report([whole], out, workspace)
    records = (out / "records.jsonl").read_bytes()
    assert records.count(b"\n") == 3
    with pytest.raises(InputError, match=r"1 of its 2 records are of no cell of these grids .* nothing was written"):
        report_writer.write_report([part], out, workspace, source="records")
    assert (out / "records.jsonl").read_bytes() == records
    assert report_writer.write_report([whole], out, workspace, source="records") == []


def test_load_report_grids_rejects_paths_in_records(grid, workspace, tmp_path):
    report_writer.write_report([grid(CELLS)], tmp_path, workspace)
    path = tmp_path / "records.jsonl"
    header, *records = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(header) | {"grids": ["../../x"]}), *records, ""]))
    with pytest.raises(InputError, match=r"a grid '\.\./\.\./x', which must be a plain file name"):
        loading.load_report_grids(tmp_path)


def test_keep_refreshed_fails_before_the_run_if_it_cannot_write(grid, workspace, tmp_path):
    with (
        pytest.raises(InputError, match="a report cannot hold a grid called index"),
        report_writer.keep_refreshed([grid(CELLS, name="index")], tmp_path / "out", workspace),
    ):
        pytest.fail("it ran")
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(InputError, match="file: cannot be written"),
        report_writer.keep_refreshed([grid(CELLS)], tmp_path / "file", workspace),
    ):
        pytest.fail("it ran")
