"""Select cells, and train finished cells again without losing their earlier results."""

import json
import shlex
import uuid
from typing import Literal

import pytest
from cells import finish, make_cell
from cli_process import Service

from pld_grid.planning.plan import make_plan
from pld_grid.service import loading, report_writer
from pld_grid.service.workspace import Workspace
from pld_grid.store import Store
from pld_grid.util.errors import InputError

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


def test_selected_grid_has_the_cells_and_their_teachers(grid):
    whole = grid(CELLS)
    student = next(entry.cell for entry in whole.entries if entry.labels["loss"] == "pld")
    assert set(make_plan([whole.select([student.cell_id])]).cells) == {student.cell_id, student.teacher.cell_id}
    teacher = make_plan([whole.select([student.teacher.cell_id])])
    assert (set(teacher.cells), teacher.students) == ({student.teacher.cell_id}, frozenset())
    everything = [cell.cell_id for cell in whole.cells()]
    assert make_plan([whole.select(everything)]).students == make_plan([whole]).students


def test_select_cells_drops_grids_and_rejects_unknown_cells(grid):
    grids = [grid(CELLS, name="one"), grid("cells: {student: ResNet-50, loss: ls}", name="two")]
    cell_id = grids[1].entries[0].cell.cell_id
    assert [narrowed.name for narrowed in loading.select_cells(grids, [cell_id])] == ["two"]
    wrong = cell_id[:-1] + ("0" if cell_id[-1] != "0" else "1")
    with pytest.raises(InputError, match=f'^--only: no cell of these grids is "{wrong}" .did you mean "{cell_id}".'):
        loading.select_cells(grids, [cell_id, wrong])


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_archived_cell_is_complete_and_no_longer_finished(kind, tmp_path):
    store = Store(tmp_path / "store" if kind == "local" else f"memory://{uuid.uuid4().hex}/store")
    cell, other = make_cell(), make_cell(seed=1)
    for each in (cell, other):
        finish(store, each)
    names = sorted(store.names(cell.cell_id))
    receipt = store.read(cell.cell_id, "receipt.json")
    archived = store.archive_cell(cell.cell_id)
    assert store.cell_ids() == {other.cell_id} == store.finished([cell, other])
    kept = archived.rsplit("/", 1)[-1]
    assert sorted(store.names(kept)) == names
    assert (store.read(kept, "receipt.json"), store.read(kept, "weights.safetensors")) == (receipt, b"weights")
    finish(store, cell)
    assert store.archive_cell(cell.cell_id) != archived
    with pytest.raises(FileNotFoundError):
        store.archive_cell(cell.cell_id)


@pytest.mark.ray
def test_command_of_why_trains_a_finished_cell_again(tmp_path):
    service = Service(tmp_path, grid=SMALL)
    service.run("run")
    before = {path: path.read_bytes() for path in service.store.glob("*/receipt.json")}
    assert len(before) == 3

    explanation = json.loads(service.call("why", "losses.yaml", "small", "PLD", "--profile", "tiny.yaml", "--json")[0])
    cell, command = explanation["cells"][0], explanation["cells"][0]["rerun"]
    program, *words = shlex.split(command)
    assert program == "pld-grid"
    assert words[-2:] == [cell["cell_id"], "--again"]
    # Without --again or with an unknown cell, nothing is trained.
    assert "Nothing to train: all 2 cells are finished." in service.call(*words[:-1])[1]
    assert service.call(*words[:-2], "0" * 16, "--again", code=2)[1].startswith("error: --only: no cell of these grids")
    assert service.run("run", "--again", code=2)[1].startswith("error: --again: ")
    assert {path: path.read_bytes() for path in service.store.glob("*/receipt.json")} == before

    _, err = service.call(*words)
    assert "1 cells trained" in err
    kept = [path for path in service.store.glob("*/receipt.json") if ".replaced-" in path.parent.name]
    assert len(kept) == 1
    assert f"earlier results kept in {kept[0].parent.relative_to(service.folder)}" in err
    again = service.store / cell["cell_id"] / "receipt.json"
    assert kept[0].read_bytes() == before.pop(again)
    assert {path: path.read_bytes() for path in before} == before
    # On a CPU the same cell gives the same numbers.
    new, old = (json.loads(path.read_text())["content"] for path in (again, kept[0]))
    assert new["provenance"]["started"] > old["provenance"]["ended"]
    assert new["weights_sha256"] == old["weights_sha256"]
    assert new["metrics"]["top1"] == old["metrics"]["top1"] == cell["epochs"][-1]["metrics"]["top1"]
    # MLflow has the new receipt, not the archived one.
    loaded = loading.load_grids([service.folder / "losses.yaml"], str(service.folder / "tiny.yaml"))
    workspace = Workspace(str(service.store), f"sqlite:///{service.folder / '.pld_grid' / 'mlflow.db'}")
    records = [report_writer.fetch_records(loaded, workspace, source)[cell["cell_id"]] for source in SOURCES]
    assert records[0] == records[1]
    assert records[0].provenance.started == new["provenance"]["started"]
