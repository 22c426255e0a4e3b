"""Reports from whatever holds their records: what would lose evidence or could not be written is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cells import finish

from pld_grid import api
from pld_grid.errors import InputError
from pld_grid.grid import Grid
from pld_grid.store import Store

MakeGrid = Callable[..., Grid]
CELLS = "cells: {student: ResNet-50, loss: [ce, ls]}"


@pytest.fixture
def workspace(tmp_path: Path) -> api.Workspace:
    """An empty one."""
    return api.Workspace(str(tmp_path / "store"), f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_a_report_never_drops_its_own_evidence(grid: MakeGrid, workspace: api.Workspace, tmp_path: Path) -> None:
    whole, part = grid(CELLS), grid("cells: {student: ResNet-50, loss: ce}")
    for cell in whole.cells():
        finish(Store(workspace.store), cell)
    out = tmp_path / "report"
    api.report([whole], out, workspace)
    evidence = (out / "records.jsonl").read_bytes()
    assert evidence.count(b"\n") == 3
    with pytest.raises(InputError, match=r"1 of its 2 records are of no cell of these grids .* nothing was written"):
        api.report([part], out, workspace, source="records")
    assert (out / "records.jsonl").read_bytes() == evidence
    assert api.report([whole], out, workspace, source="records") == []


def test_grids_in_a_records_file_are_names_and_no_paths(
    grid: MakeGrid, workspace: api.Workspace, tmp_path: Path
) -> None:
    api.report([grid(CELLS)], tmp_path, workspace)
    path = tmp_path / "records.jsonl"
    header, *records = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(header) | {"grids": ["../../x"]}), *records, ""]))
    with pytest.raises(InputError, match=r"a grid '\.\./\.\./x', which must be a plain file name"):
        api.grids_of_report(tmp_path)


def test_what_cannot_be_reported_is_known_before_anything_runs(
    grid: MakeGrid, workspace: api.Workspace, tmp_path: Path
) -> None:
    with (
        pytest.raises(InputError, match="a report cannot hold a grid called index"),
        api.refreshed([grid(CELLS, name="index")], tmp_path / "out", workspace),
    ):
        pytest.fail("it ran")
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(InputError, match="file: cannot be written"),
        api.refreshed([grid(CELLS)], tmp_path / "file", workspace),
    ):
        pytest.fail("it ran")
