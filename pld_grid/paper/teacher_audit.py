"""Measure every candidate for the paper's teachers, to find the published weights nearest to the printed accuracies.

An audit is a grid whose cells are the candidates, so they run, resume, stay in the store and show in MLflow as usual.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from pld_grid.experiment.grid import Entry, Grid
from pld_grid.experiment.metrics import TOP1, TOP5
from pld_grid.experiment.profile import Profile
from pld_grid.experiment.table_layout import default_layout
from pld_grid.report.paper_table import read_paper_table
from pld_grid.service import loading, report_writer, runner
from pld_grid.service.workspace import Workspace
from pld_grid.store import Store
from pld_grid.store.records import CellRecord
from pld_grid.util.atomic_files import write_changed
from pld_grid.util.csv_text import MISSING, csv_text
from pld_grid.util.errors import InputError

NAME = "audit-teachers"


class Printed(NamedTuple):
    """The paper's figures of a teacher as printed: top-1 in percent, parameters in millions, and their place."""

    top1: str = ""
    parameters: str = ""
    place: str = ""

    def __str__(self) -> str:
        return f"{self.top1} % with {self.parameters} M parameters ({self.place})" if self.top1 else "no figure"


@dataclass(frozen=True)
class Candidate:
    """A candidate for a teacher, measured or not.

    Attributes:
        entry: Its cell and labels.
        record: Its result, if there is one.
        state: The cell's state, or why there is none.
        printed: The paper's figures of the teacher.
        in_profile: Whether the profile uses this candidate.
        best: Whether it is the finished candidate whose top-1 is nearest to the printed one.
    """

    entry: Entry
    record: CellRecord | None
    state: str
    printed: Printed
    in_profile: bool
    best: bool = False

    @property
    def teacher(self) -> str:
        """The profile's name of the model."""
        return str(self.entry.labels["teacher"])

    def metric(self, name: str) -> float | None:
        """Return a measured value, in percent."""
        return self.record.metrics.get(name) if self.record is not None and self.state == "finished" else None

    @property
    def parameters(self) -> int | None:
        """The model's number of parameters."""
        return self.record.parameters if self.record is not None else None

    @property
    def difference(self) -> float | None:
        """Top-1 minus the printed one, in percentage points."""
        top1 = self.metric(TOP1.name)
        return top1 - float(self.printed.top1) if top1 is not None and self.printed.top1 else None

    def sort_key(self) -> tuple[float, bool]:
        """Order by distance from the paper's accuracy; among equals, the profile's candidate comes first."""
        return (abs(self.difference) if self.difference is not None else float("inf"), not self.in_profile)


@dataclass(frozen=True)
class Audit:
    """All candidates, teacher by teacher; the missing weights; and the number of candidates that failed."""

    candidates: tuple[Candidate, ...]
    missing: tuple[str, ...]
    failed: int

    def by_teacher(self) -> Iterator[tuple[str, list[Candidate]]]:
        """Yield each teacher's candidates, the nearest to the paper first."""
        for name, group in groupby(self.candidates, key=lambda candidate: candidate.teacher):
            yield name, sorted(group, key=Candidate.sort_key)


def audit_teachers(
    profile: str = "imagenet",
    workspace: Workspace | None = None,
    *,
    teachers: Sequence[str] = (),
    address: str | None = None,
    data_folder: str | None = None,
    weights_folder: str | None = None,
    console: Console | None = None,
) -> Audit:
    """Measure the candidates for a profile's published teachers that the store does not contain yet.

    Args:
        profile: Name or path.
        workspace: As for `pld_grid.run`.
        teachers: Some of the profile's models, or `ARCHITECTURE.TAG`; by default all with published weights.
        address: As for `pld_grid.run`.
        data_folder: As for `pld_grid.run`.
        weights_folder: As for `pld_grid.run`.
        console: As for `pld_grid.run`.

    Raises:
        InputError: The profile has no such published teacher.
        WeightsError: No candidate's weights are available, and they may not be downloaded.
        PldGridError: See `pld_grid.run`.
    """
    workspace = workspace or Workspace.default()
    loaded = loading.load_profile(profile)
    entries = _list_entries(loaded, teachers)
    missing = _find_missing_weights(entries, workspace, weights_folder)
    measurable = tuple(entry for entry in entries if entry.cell.cell_id not in missing)
    layout = default_layout(list(entries[0].labels))
    grid = Grid(name=NAME, document=loaded.document, profile=loaded, entries=measurable, layout=layout)
    summary = runner.run(
        [grid], workspace, address=address, data_folder=data_folder, weights_folder=weights_folder, console=console
    )
    records = report_writer.fetch_records([grid], workspace, "store")
    printed = _read_printed()
    candidates = []
    for entry in entries:
        name, cell_id = str(entry.labels["teacher"]), entry.cell.cell_id
        record, used = records.get(cell_id), cell_id == loaded.teacher(name).cell_id
        state = record.state if record is not None else "weights missing" if cell_id in missing else "not run"
        candidates.append(Candidate(entry, record, state, printed.get(name, Printed()), used))
    return Audit(_mark_best(candidates), tuple(dict.fromkeys(missing.values())), summary.failed)


def _list_entries(profile: Profile, teachers: Sequence[str]) -> list[Entry]:
    from pld_grid.paper.teacher_candidates import list_candidates

    names = dict.fromkeys(teachers or (name for name, model in profile.file.models.items() if model.pretrained))
    if not names:
        raise InputError(f"--profile: no model of {profile.name} has published weights")
    try:
        return [entry for name in names for entry in list_candidates(profile, name)]
    except ValueError as error:
        raise InputError(f"--teacher: {error}") from None


def _find_missing_weights(entries: Sequence[Entry], workspace: Workspace, weights_folder: str | None) -> dict[str, str]:
    """Return the names of missing weights by id of the cells that are not finished and cannot be measured.

    Raises:
        WeightsError: All cells lack their weights.
    """
    from pld_grid.train.weights import WeightsError, can_be_fetched, describe_missing, missing_weights, weights_name

    finished = Store(workspace.store).finished(entry.cell for entry in entries)
    unfinished = [entry.cell for entry in entries if entry.cell.cell_id not in finished]
    names = [n for n in missing_weights(unfinished, weights_folder) if not can_be_fetched(n, weights_folder)]
    missing = {cell.cell_id: name for cell in unfinished if (name := weights_name(cell.student)) in names}
    if len(missing) == len(entries):
        raise WeightsError(describe_missing(names, weights_folder))
    return missing


def _read_printed() -> dict[str, Printed]:
    folder = report_writer.find_paper_folder()
    if folder is None:
        return {}
    table = read_paper_table(folder, "teachers", ("Teacher", "Place"))
    return {
        teacher: Printed(figures["Top-1"], figures["Params(M)"], place)
        for (teacher, place), figures in table.figures.items()
    }


def _mark_best(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    best: dict[str, Candidate] = {}
    for candidate in candidates:
        if candidate.difference is not None:
            best[candidate.teacher] = min(best.get(candidate.teacher, candidate), candidate, key=Candidate.sort_key)
    return tuple(replace(candidate, best=best.get(candidate.teacher) is candidate) for candidate in candidates)


def write_audit(audit: Audit, path: str | Path) -> None:
    """Write a CSV file with a line per candidate, measured or not; "-" stands for a missing value.

    Raises:
        InputError: The file cannot be written.
    """
    rows = [_format_row(candidate) for candidate in audit.candidates]
    write_changed(Path(path), csv_text(list(rows[0]), [list(row.values()) for row in rows]).encode())


def _format_row(candidate: Candidate) -> dict[str, object]:
    cell, record = candidate.entry.cell, candidate.record
    pretrained = cell.student.pretrained
    assert pretrained is not None
    return {
        **candidate.entry.labels,
        "mean": " ".join(f"{value:g}" for value in pretrained.mean or cell.recipe.mean),
        "std": " ".join(f"{value:g}" for value in pretrained.std or cell.recipe.std),
        "top1": _format_value(candidate.metric(TOP1.name), ".3f"),
        "top5": _format_value(candidate.metric(TOP5.name), ".3f"),
        "parameters": _format_value(candidate.parameters, "d"),
        "paper top1": candidate.printed.top1 or MISSING,
        "difference": _format_value(candidate.difference, "+.2f"),
        "best match": "yes" if candidate.best else "no",
        "in profile": "yes" if candidate.in_profile else "no",
        "state": candidate.state,
        "cell_id": cell.cell_id,
        "mlflow_run_id": record.run_id if record is not None and record.run_id else MISSING,
    }


def _format_value(value: float | None, spec: str) -> str:
    return MISSING if value is None else format(value, spec)
