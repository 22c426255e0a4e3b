"""The progress display: counts, epochs and an estimate; plain lines where there is no terminal."""

import io

import pytest
from cells import make_cell, make_distilled
from rich.console import Console

from pld_grid.experiment.describe import describe_cell
from pld_grid.experiment.events import (
    CellDiverged,
    CellFailed,
    CellFinished,
    CellStarted,
    ClaimedElsewhere,
    CohortSplit,
    EpochCompleted,
)
from pld_grid.service.progress import ProgressDisplay
from pld_grid.util.text import format_duration


def test_describe_cell_names_model_teacher_loss_optimizer_and_seed():
    assert describe_cell(make_cell()) == "mobilenetv4_conv_small ce lamb seed 0"
    expected = "mobilenetv4_conv_small <- resnet152 pld(tau=1, weights=teacher, std=teacher) lamb seed 0"
    assert describe_cell(make_distilled()) == expected


@pytest.mark.parametrize(("seconds", "text"), [(5.9, "5s"), (95, "1m35s"), (7260, "2h01m")])
def test_format_duration_uses_the_two_largest_units(seconds, text):
    assert format_duration(seconds) == text


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=160, color_system=None)


def _text(console: Console) -> str:
    return console.file.getvalue()


def test_display_without_terminal_prints_one_line_per_ended_cell(console):
    one, other = make_cell(), make_distilled()
    with ProgressDisplay([one, other], 3, console) as display:
        display.on_event(CellStarted(one.cell_id))
        display.on_event(EpochCompleted(one.cell_id, 1, {"top1": 40.0}))
        assert _text(console) == ""
        display.on_event(CellFinished(one.cell_id, 3, {"top1": 91.25}))
        display.on_event(CellFailed(other.cell_id, 0, reason="ValueError: odd"))
    first, second = _text(console).splitlines()
    assert first.startswith(f"[1/2] finished {one.cell_id}  mobilenetv4_conv_small ce lamb seed 0  top-1 91.25 %")
    assert "eta" in first
    assert "failed" in second
    assert "ValueError: odd" in second
    assert [display.count(state) for state in ("finished", "failed", "diverged")] == [1, 1, 0]


def test_display_prints_reasons_as_text_without_markup(console):
    """An error of Ray or the host of another run may contain anything; notebooks have consoles with markup."""
    one, other = make_cell(), make_distilled()
    with ProgressDisplay([one, other], 0, console) as display:
        display.on_event(CohortSplit(one.cell_id, reason="see [worker] of [/core]"))
        assert display.ended == {}
        display.on_event(ClaimedElsewhere(one.cell_id, reason="run 0 on [/x] trains it"))
        display.on_event(ClaimedElsewhere(other.cell_id))
        display.on_event(CellFailed(one.cell_id, reason="KeyError: '[/b]'"))
    split, claimed, unknown, failed = _text(console).splitlines()
    assert split == f"cohort of {one.cell_id} split in two: see [worker] of [/core]"
    assert claimed == "run 0 on [/x] trains it, and maybe others: its results will be shared"
    assert unknown.startswith("another run trains some cells, and maybe others")
    assert "'[/b]'" in failed


def test_display_in_terminal_shows_running_cells_and_counts(console):
    one, other = make_cell(), make_distilled()
    display = ProgressDisplay([one, other], 3, console)
    display.on_event(EpochCompleted(one.cell_id, 2, {"top1": 55.5}))
    display.on_event(CellDiverged(other.cell_id, 1, reason="the loss was not finite in epoch 1, step 4"))
    console.print(display)
    text = _text(console)
    assert "0/2 cells finished, 1 running, 1 failed or diverged, 3 finished before" in text
    assert "2/3" in text
    assert "55.50" in text


def test_estimate_ignores_epochs_of_an_earlier_run(console):
    cell = make_cell(epochs=100)
    display = ProgressDisplay([cell], 0, console)
    display.on_event(CellStarted(cell.cell_id, 90))
    assert "eta" not in display._timing()
    display.on_event(EpochCompleted(cell.cell_id, 91, {"top1": 1.0}))
    assert display.skipped == 90
    assert "eta" in display._timing()


def test_estimate_weights_cells_by_their_expected_seconds(console):
    cheap, costly = make_cell(seed=1), make_cell(seed=2)
    display = ProgressDisplay([cheap, costly], 0, console)
    display.set_durations({cheap.cell_id: 10.0, costly.cell_id: 90.0})
    display.on_event(CellStarted(cheap.cell_id, 0))
    display.on_event(EpochCompleted(cheap.cell_id, 1))
    assert display.done / display.total_work == pytest.approx(0.1 / 3)
    display.on_event(CellFinished(costly.cell_id, 3, {"top1": 1.0}))
    assert display.done / display.total_work == pytest.approx(0.9 + 0.1 / 3)


def test_display_ignores_events_of_other_cells(console):
    display = ProgressDisplay([make_cell()], 0, console)
    display.on_event(CellFinished("0" * 16, 1, {"top1": 1.0}))
    assert display.count("finished") == 0
