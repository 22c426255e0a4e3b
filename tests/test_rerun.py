"""Training just some cells, and training finished ones again without losing what they had."""

import json
import shlex
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from cells import finish, make_cell
from service import Service

from pld_grid import api
from pld_grid.errors import InputError
from pld_grid.grid import Grid
from pld_grid.plan import make_plan
from pld_grid.store import Store

MakeGrid = Callable[..., Grid]
CELLS = "cells: {teacher: ResNet-152, student: [ResNet-50, ViT-Small/16], loss: [ce, kd, pld]}"
SOURCES: tuple[Literal["store", "mlflow"], ...] = ("store", "mlflow")
SMALL = """
cells: {teacher: big, student: small, epochs: 2, loss: [ce, pld]}
table:
  rows: [student]
  columns:
    - {header: Student, axis: student}
    - {header: CE, metric: top1, where: {loss: ce}}
    - {header: PLD, metric: top1, where: {loss: pld}}
    - {header: Delta, minus: [PLD, CE]}
"""


def test_a_narrowed_grid_has_the_cells_and_their_teachers(grid: MakeGrid) -> None:
    whole = grid(CELLS)
    taught = next(entry.cell for entry in whole.entries if entry.labels["loss"] == "pld")
    assert taught.teacher is not None
    assert set(make_plan([whole.only([taught.cell_id])]).cells) == {taught.cell_id, taught.teacher.cell_id}
    teacher = make_plan([whole.only([taught.teacher.cell_id])])
    assert (set(teacher.cells), teacher.students) == ({taught.teacher.cell_id}, frozenset())
    everything = [cell.cell_id for cell in whole.cells()]
    assert make_plan([whole.only(everything)]).students == make_plan([whole]).students


def test_grids_without_the_cells_are_left_out_and_unknown_cells_refused(grid: MakeGrid) -> None:
    grids = [grid(CELLS, name="one"), grid("cells: {student: ResNet-50, loss: ls}", name="two")]
    cell_id = grids[1].entries[0].cell.cell_id
    assert [narrowed.name for narrowed in api.only(grids, [cell_id])] == ["two"]
    wrong = cell_id[:-1] + ("0" if cell_id[-1] != "0" else "1")
    with pytest.raises(InputError, match=f'^--only: no cell of these grids is "{wrong}" .did you mean "{cell_id}".'):
        api.only(grids, [cell_id, wrong])


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_cell_set_aside_is_whole_and_no_result_any_more(kind: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store" if kind == "local" else f"memory://{uuid.uuid4().hex}/store")
    cell, other = make_cell(), make_cell(seed=1)
    for each in (cell, other):
        finish(store, each)
    names = sorted(store.names(cell.cell_id))
    receipt = store.read(cell.cell_id, "receipt.json")
    aside = store.set_cell_aside(cell.cell_id)
    assert store.cell_ids() == {other.cell_id} == store.finished([cell, other])
    kept = aside.rsplit("/", 1)[-1]
    assert sorted(store.names(kept)) == names
    assert (store.read(kept, "receipt.json"), store.read(kept, "weights.safetensors")) == (receipt, b"weights")
    finish(store, cell)
    assert store.set_cell_aside(cell.cell_id) != aside
    with pytest.raises(FileNotFoundError):
        store.set_cell_aside(cell.cell_id)


def test_a_finished_cell_is_trained_again_by_the_command_that_why_tells(tmp_path: Path) -> None:
    service = Service(tmp_path, grid=SMALL)
    service.run("run")
    before = {path: path.read_bytes() for path in service.store.glob("*/receipt.json")}
    assert len(before) == 3

    def ours(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        script = [sys.executable, "-c", "from pld_grid.cli import script; script()", *words]
        done = subprocess.run(
            script, cwd=service.folder, env=service.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == code, done.stderr
        return done

    told = json.loads(ours("why", "losses.yaml", "small", "PLD", "--profile", "tiny.yaml", "--json").stdout)
    cell, command = told["cells"][0], told["cells"][0]["rerun"]
    program, *words = shlex.split(command)
    assert program == "pld-grid"
    assert words[-2:] == [cell["cell_id"], "--again"]
    # Without --again, and with a cell that is not there, nothing happens.
    assert "Nothing to train: all 2 cells are finished." in ours(*words[:-1]).stderr
    assert ours(*words[:-2], "0" * 16, "--again", code=2).stderr.startswith("error: --only: no cell of these grids")
    assert ours("run", "losses.yaml", "--profile", "tiny.yaml", "--again", code=2).stderr.startswith("error: --again: ")
    assert {path: path.read_bytes() for path in service.store.glob("*/receipt.json")} == before

    err = ours(*words).stderr
    assert "1 cells trained" in err
    kept = [path for path in service.store.glob("*/receipt.json") if ".replaced-" in path.parent.name]
    assert len(kept) == 1
    assert f"earlier results kept in {kept[0].parent.relative_to(service.folder)}" in err
    again = service.store / cell["cell_id"] / "receipt.json"
    assert kept[0].read_bytes() == before.pop(again)
    assert {path: path.read_bytes() for path in before} == before
    # On a CPU the same cell gives the same numbers, so nothing of the table moves.
    new, old = (json.loads(path.read_text())["content"] for path in (again, kept[0]))
    assert new["provenance"]["started"] > old["provenance"]["ended"]
    assert new["weights_sha256"] == old["weights_sha256"]
    assert new["metrics"]["top1"] == old["metrics"]["top1"] == cell["epochs"][-1]["metrics"]["top1"]
    # And MLflow has the new receipt, not the one that was set aside.
    loaded = api.load_grids([service.folder / "losses.yaml"], str(service.folder / "tiny.yaml"))
    workspace = api.Workspace(str(service.store), f"sqlite:///{service.folder / '.pld_grid' / 'mlflow.db'}")
    records = [api.fetch_records(loaded, workspace, source)[cell["cell_id"]] for source in SOURCES]
    assert records[0] == records[1]
    assert records[0].provenance is not None and records[0].provenance.started == new["provenance"]["started"]
