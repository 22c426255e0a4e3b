"""`pld-grid audit-teachers` and `landscapes`: the candidates for the paper's teachers, and its Figures 3 and 4."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from pld_grid.cli import console, options
from pld_grid.experiment.metrics import TOP1, TOP5
from pld_grid.util.errors import CellsFailed
from pld_grid.util.text import join_names

if TYPE_CHECKING:
    from pld_grid.paper.teacher_audit import Candidate

_STYLES = {"best match": "bold green", "profile": "cyan"}


def audit_teachers(
    workspace_options: options.WorkspaceOptions,
    profile: options.ProfileName = "imagenet",
    teacher: Annotated[
        list[str] | None, typer.Option(help="A model of the profile, or ARCHITECTURE.TAG; may be repeated.")
    ] = None,
    data_dir: options.DataDir = None,
    weights_dir: options.WeightsDir = None,
    address: options.Address = None,
    out: Annotated[str | None, typer.Option(help="Also write all candidates into this CSV file.")] = None,
) -> None:
    """Measure the published weights that may be the paper's teachers, beside the accuracies that it prints."""
    from pld_grid.paper import teacher_audit

    message = "interrupted: finished measurements are kept; the same command continues from there"
    with console.exit_on_interrupt(message):
        audit = teacher_audit.audit_teachers(
            profile,
            workspace_options.resolve(creates_store=True),
            teachers=teacher or (),
            address=address,
            data_folder=data_dir,
            weights_folder=weights_dir,
            console=console.errors,
        )
    for name, candidates in audit.by_teacher():
        _print_teacher(name, candidates)
    if audit.missing:
        console.output.print(f"not measured, as their weights are missing: {join_names(audit.missing)}", soft_wrap=True)
    if out:
        teacher_audit.write_audit(audit, out)
        console.output.print(f"{out}: {len(audit.candidates)} candidates written", soft_wrap=True)
    if audit.failed:
        raise CellsFailed(f"{audit.failed} candidates failed; the same command retries them")


def _print_teacher(name: str, candidates: "list[Candidate]") -> None:
    """Print a table of the candidates, the nearest to the paper first, and the one that the profile uses."""
    title = f"{name}: the paper has {candidates[0].printed}"
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for header in ("Tag", "Normalisation"):
        table.add_column(header)
    for header in ("Crop", "Pixels", "Top-1", "Top-5", "Params(M)", "- paper"):
        table.add_column(header, justify="right")
    table.add_column("")
    for candidate in candidates:
        if candidate.state == "weights missing":
            continue
        labels = candidate.entry.labels
        marks = [
            mark for mark, applies in (("best match", candidate.best), ("profile", candidate.in_profile)) if applies
        ]
        table.add_row(
            str(labels["tag"]),
            str(labels["normalisation"]),
            f"{labels['crop']:g}",
            str(labels["resolution"]),
            *_format_numbers(candidate),
            Text(", ".join(marks), style=_STYLES[marks[0]] if marks else ""),
        )
    console.output.print(table if table.rows else title)
    used = next(candidate for candidate in candidates if candidate.in_profile)
    console.output.print(f"the profile uses {_describe(used)}", soft_wrap=True, highlight=False)


def _format_numbers(candidate: "Candidate") -> list[str]:
    """Return top-1, top-5, parameters and difference, or the state and dashes if there is no result."""
    top1, top5 = candidate.metric(TOP1.name), candidate.metric(TOP5.name)
    if top1 is None or top5 is None:
        return [candidate.state, "-", "-", "-"]
    parameters = f"{candidate.parameters / 1e6:.2f}" if candidate.parameters is not None else "-"
    difference = f"{candidate.difference:+.2f}" if candidate.difference is not None else "-"
    return [f"{top1:.2f}", f"{top5:.2f}", parameters, difference]


def _describe(candidate: "Candidate") -> str:
    labels = candidate.entry.labels
    top1 = candidate.metric(TOP1.name)
    result = TOP1.describe(top1) if top1 is not None else candidate.state
    chosen = f"{labels['tag']}, {labels['normalisation']} normalisation, crop {labels['crop']:g}"
    return f"{chosen}, {labels['resolution']} pixels: {result}{', the best match' if candidate.best else ''}"


def landscapes(
    out: Annotated[str, typer.Option(help="Folder to write.")] = "reports/landscapes",
    points: Annotated[int, typer.Option(max=1001, help="Points along each side of the square; odd.")] = 81,
    seed: Annotated[int, typer.Option(max=2**31, help="Seed of the random teacher and directions.")] = 0,
    classes: Annotated[int, typer.Option(max=100_000, help="Number of classes.")] = 1000,
    label_rank: Annotated[
        int, typer.Option(help="Rank of the label in the teacher's ranking; with 1, the teacher is right.")
    ] = 1,
) -> None:
    """Draw loss landscapes (Figures 3 and 4): DIST, KD, and PLD at four temperatures."""
    from pld_grid.paper.landscapes import write_landscapes

    changed = write_landscapes(out, points=points, seed=seed, classes=classes, label_rank=label_rank)
    for path in changed:
        console.output.print(str(path), soft_wrap=True, markup=False, highlight=False)
    console.output.print(f"{out}: {len(changed)} files written" if changed else f"{out}: up to date", soft_wrap=True)


COMMANDS = (audit_teachers, landscapes)
