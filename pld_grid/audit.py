"""Which published weights are the paper's teachers: every candidate measured, beside the accuracy that is printed.

An audit is a grid whose cells are the candidates: they run, resume, stay in the store and show in MLflow as any others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from pld_grid import api
from pld_grid.csvtext import NOTHING, csv_text
from pld_grid.errors import InputError
from pld_grid.files import write_changed
from pld_grid.grid import Entry, Grid
from pld_grid.layout import default_layout
from pld_grid.profile import Profile
from pld_grid.records import Record
from pld_grid.report.paper import read_paper
from pld_grid.store import Store
from pld_grid.workspace import Workspace

NAME = "audit-teachers"
_HEADERS = (
    "teacher", "tag", "crop", "resolution", "normalisation", "mean", "std", "top1", "top5", "parameters", "paper top1",
    "difference", "best match", "in profile", "state", "cell_id", "mlflow_run_id",
)  # fmt: skip


class Printed(NamedTuple):
    """What the paper prints about a teacher: top-1 in percent, parameters in millions, and where; empty: nothing."""

    top1: str = ""
    parameters: str = ""
    place: str = ""

    def __str__(self) -> str:
        return f"{self.top1} % with {self.parameters} M parameters ({self.place})" if self.top1 else "no figure"


@dataclass(frozen=True)
class Finding:
    """One candidate for a teacher, measured or not.

    `in_profile` marks the one that the profile uses; `best` the finished one whose top-1 is nearest to the printed one.
    """

    entry: Entry
    record: Record | None
    printed: Printed
    in_profile: bool
    has_weights: bool
    best: bool = False

    @property
    def teacher(self) -> str:
        """The profile's name of the model."""
        return str(self.entry.labels["teacher"])

    @property
    def state(self) -> str:
        """The cell's state, or why there is none."""
        if self.record is not None:
            return str(self.record.state)
        return "not run" if self.has_weights else "weights missing"

    def metric(self, name: str) -> float | None:
        """A measured number, in percent."""
        return self.record.metrics.get(name) if self.record is not None and self.state == "finished" else None

    @property
    def parameters(self) -> int | None:
        """The model's count."""
        return self.record.parameters if self.record is not None else None

    @property
    def difference(self) -> float | None:
        """Top-1 less the printed one, in percentage points."""
        top1 = self.metric("top1")
        return top1 - float(self.printed.top1) if top1 is not None and self.printed.top1 else None


@dataclass(frozen=True)
class Audit:
    """All findings, teacher by teacher; the weights that nobody could measure, and how many candidates failed."""

    findings: tuple[Finding, ...]
    missing: tuple[str, ...]
    failed: int

    def by_teacher(self) -> Iterator[tuple[str, list[Finding]]]:
        """A teacher's findings, the nearest to the paper first."""
        for name, group in groupby(self.findings, key=lambda finding: finding.teacher):
            yield name, sorted(group, key=_distance)


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
    """Measures what may stand for a profile's published teachers, as far as the store has not got it yet.

    Args:
        profile: name or path.
        teachers: some of its models, or `ARCHITECTURE.TAG`; by default all that have published weights.
        address, data_folder, weights_folder: as for `pld_grid.run`.

    Raises:
        InputError: the profile has no such published teacher.
        WeightsError: no candidate's weights are here, and they must not be fetched.
        and what `pld_grid.run` raises.
    """
    workspace = workspace or Workspace.default()
    loaded = api.load_profile(profile)
    entries = _candidates(loaded, teachers)
    printed = _printed()
    measurable, missing = _measurable(entries, workspace, weights_folder)
    grid = Grid(
        name=NAME,
        document=loaded.document,
        profile=loaded,
        entries=tuple(measurable),
        layout=default_layout(list(entries[0].labels)),
    )
    done = api.run(
        [grid],
        workspace,
        address=address,
        data_folder=data_folder,
        weights_folder=weights_folder,
        console=console,
    )
    records = api.fetch_records([grid], workspace, "store")
    kept = {entry.cell.cell_id for entry in measurable}
    in_profile = {name: loaded.teacher(name).cell_id for name in {str(entry.labels["teacher"]) for entry in entries}}
    findings = [
        Finding(
            entry=entry,
            record=records.get(entry.cell.cell_id),
            printed=printed.get(str(entry.labels["teacher"]), Printed()),
            in_profile=entry.cell.cell_id == in_profile[str(entry.labels["teacher"])],
            has_weights=entry.cell.cell_id in kept,
        )
        for entry in entries
    ]
    return Audit(_marked(findings), tuple(missing), done.failed)


def _candidates(profile: Profile, teachers: Sequence[str]) -> list[Entry]:
    from pld_grid.train.audit import candidates

    names = dict.fromkeys(teachers or (name for name, model in profile.file.models.items() if model.pretrained))
    if not names:
        raise InputError(f"--profile: no model of {profile.name} has published weights")
    try:
        return [entry for name in names for entry in candidates(profile, name)]
    except ValueError as error:
        raise InputError(f"--teacher: {error}") from None


def _measurable(
    entries: Sequence[Entry], workspace: Workspace, weights_folder: str | None
) -> tuple[list[Entry], list[str]]:
    """The candidates that are finished or can be measured, and the names of the weights that the others lack.

    Raises WeightsError if there is none of the former.
    """
    from pld_grid.train.weights import (
        WeightsError,
        can_be_fetched,
        describe_missing,
        missing_weights,
        weights_name,
    )

    finished = Store(workspace.store).finished(entry.cell for entry in entries)
    wanted = [entry.cell for entry in entries if entry.cell.cell_id not in finished]
    missing = [n for n in missing_weights(wanted, weights_folder) if not can_be_fetched(n, weights_folder)]
    found = [e for e in entries if e.cell.cell_id in finished or weights_name(e.cell.student) not in missing]
    if not found:
        raise WeightsError(describe_missing(missing, weights_folder))
    return found, missing


def _printed() -> dict[str, Printed]:
    folder = api.paper_folder()
    if folder is None:
        return {}
    table = read_paper(folder, "teachers", ("Teacher", "Place"))
    return {
        teacher: Printed(figures["Top-1"], figures["Params(M)"], place)
        for (teacher, place), figures in table.figures.items()
    }


def _distance(finding: Finding) -> tuple[float, bool]:
    """How far from the paper's accuracy; of equals, the profile's own comes first."""
    difference = finding.difference
    return (abs(difference) if difference is not None else float("inf"), not finding.in_profile)


def _marked(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    best: dict[str, Finding] = {}
    for finding in findings:
        if finding.difference is not None:
            best[finding.teacher] = min(best.get(finding.teacher, finding), finding, key=_distance)
    return tuple(replace(finding, best=best.get(finding.teacher) is finding) for finding in findings)


def audit_csv(audit: Audit) -> str:
    """Every candidate, measured or not, a line each; "-" stands for what there is not."""
    return csv_text(_HEADERS, map(_fields, audit.findings))


def _fields(finding: Finding) -> list[str]:
    cell, record = finding.entry.cell, finding.record
    own = cell.student.pretrained
    assert own is not None
    return [
        *map(str, finding.entry.labels.values()),
        " ".join(f"{value:g}" for value in own.mean or cell.recipe.mean),
        " ".join(f"{value:g}" for value in own.std or cell.recipe.std),
        _text(finding.metric("top1"), ".3f"),
        _text(finding.metric("top5"), ".3f"),
        _text(finding.parameters, "d"),
        finding.printed.top1 or NOTHING,
        _text(finding.difference, "+.2f"),
        "yes" if finding.best else "no",
        "yes" if finding.in_profile else "no",
        finding.state,
        cell.cell_id,
        record.run_id if record is not None and record.run_id else NOTHING,
    ]


def write_audit(audit: Audit, path: str | Path) -> None:
    """Writes `audit_csv` into a file. Raises InputError if it cannot be written."""
    write_changed(Path(path), audit_csv(audit).encode())


def _text(value: float | None, spec: str) -> str:
    return NOTHING if value is None else format(value, spec)
