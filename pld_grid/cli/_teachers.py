"""`pld-grid audit-teachers`: which published weights are the paper's teachers."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from pld_grid.cli import console
from pld_grid.cli._options import (
    Address,
    DataDir,
    Experiment,
    ProfileName,
    StorePath,
    TrackingUri,
    WeightsDir,
    workspace_of,
)  # fmt: skip
from pld_grid.errors import CellsFailed, listing

if TYPE_CHECKING:
    from pld_grid.audit import Finding

_STYLES = {"best match": "bold green", "profile": "cyan"}


def audit_teachers(
    profile: ProfileName = "imagenet",
    teacher: Annotated[
        list[str] | None, typer.Option(help="A model of the profile, or ARCHITECTURE.TAG; may be repeated.")
    ] = None,
    data_dir: DataDir = None,
    weights_dir: WeightsDir = None,
    address: Address = None,
    store: StorePath = None,
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    out: Annotated[str | None, typer.Option(help="Also write all candidates into this CSV file.")] = None,
) -> None:
    """Measure the published weights that may be the paper's teachers, beside the accuracies that it prints."""
    from pld_grid import audit

    try:
        found = audit.audit_teachers(
            profile,
            workspace_of(store, tracking_uri, experiment),
            teachers=teacher or (),
            address=address,
            data_folder=data_dir,
            weights_folder=weights_dir,
            console=console.errors,
        )
    except KeyboardInterrupt:
        console.errors.print("interrupted: what is measured is kept; the same command goes on from there")
        raise typer.Exit(130) from None
    for name, findings in found.by_teacher():
        _print_teacher(name, findings)
    if found.missing:
        console.output.print(f"not measured, as their weights are missing: {listing(found.missing)}", soft_wrap=True)
    if out:
        audit.write_audit(found, out)
        console.output.print(f"{out}: {len(found.findings)} candidates written", soft_wrap=True)
    if found.failed:
        raise CellsFailed(f"{found.failed} candidates failed; the same command tries them again")


def _print_teacher(name: str, findings: "list[Finding]") -> None:
    """A table of what was tried, the nearest to the paper first, and what the profile uses now."""
    title = f"{name}: the paper has {findings[0].printed}"
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for header in ("Tag", "Normalisation"):
        table.add_column(header)
    for header in ("Crop", "Pixels", "Top-1", "Top-5", "Params(M)", "- paper"):
        table.add_column(header, justify="right")
    table.add_column("")
    for finding in findings:
        if finding.state == "weights missing":
            continue
        labels = finding.entry.labels
        marks = [mark for mark, applies in (("best match", finding.best), ("profile", finding.in_profile)) if applies]
        table.add_row(
            str(labels["tag"]), str(labels["normalisation"]), f"{labels['crop']:g}", str(labels["resolution"]),
            *_numbers(finding), Text(", ".join(marks), style=_STYLES[marks[0]] if marks else ""),
        )  # fmt: skip
    console.output.print(table if table.rows else title)
    used = next(finding for finding in findings if finding.in_profile)
    console.output.print(f"the profile uses {_in_words(used)}", soft_wrap=True, highlight=False)


def _numbers(finding: "Finding") -> list[str]:
    """Top-1, top-5, parameters and the difference; the state stands for what was not measured."""
    top1, top5 = finding.metric("top1"), finding.metric("top5")
    if top1 is None or top5 is None:
        return [finding.state, "-", "-", "-"]
    parameters = f"{finding.parameters / 1e6:.2f}" if finding.parameters is not None else "-"
    difference = f"{finding.difference:+.2f}" if finding.difference is not None else "-"
    return [f"{top1:.2f}", f"{top5:.2f}", parameters, difference]


def _in_words(finding: "Finding") -> str:
    labels = finding.entry.labels
    top1 = finding.metric("top1")
    result = f"top-1 {top1:.2f} %" if top1 is not None else finding.state
    chosen = f"{labels['tag']}, {labels['normalisation']} normalisation, crop {labels['crop']:g}"
    return f"{chosen}, {labels['resolution']} pixels: {result}{', the best match' if finding.best else ''}"
