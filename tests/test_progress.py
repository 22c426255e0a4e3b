"""The live display: counts, epochs, an estimate; plain lines where there is no terminal."""

import io

import pytest
from cells import make_cell, make_distilled
from rich.console import Console

from pld_grid.events import Event
from pld_grid.progress import Progress, describe, duration


def _console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=160, color_system=None)


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_cells_are_described_in_the_words_of_the_grid() -> None:
    assert describe(make_cell()) == "mobilenetv4_conv_small ce lamb seed 0"
    expected = "mobilenetv4_conv_small <- resnet152 pld(tau=1, weights=teacher, std=teacher) lamb seed 0"
    assert describe(make_distilled()) == expected


@pytest.mark.parametrize(("seconds", "text"), [(5.9, "5s"), (95, "1m35s"), (7260, "2h01m")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plain_lines_where_there_is_no_terminal() -> None:
    one, other = make_cell(), make_distilled()
    console = _console(terminal=False)
    with Progress([one, other], 3, console) as progress:
        progress.hear(Event("started", one.cell_id))
        progress.hear(Event("epoch", one.cell_id, 1, {"top1": 40.0}))
        assert _text(console) == ""
        progress.hear(Event("finished", one.cell_id, 3, {"top1": 91.25}))
        progress.hear(Event("failed", other.cell_id, 0, reason="ValueError: odd"))
    first, second = _text(console).splitlines()
    assert first.startswith(f"[1/2] finished {one.cell_id}  mobilenetv4_conv_small ce lamb seed 0  top-1 91.25 %")
    assert "eta" in first
    assert "failed" in second
    assert "ValueError: odd" in second
    assert [progress.count(state) for state in ("finished", "failed", "diverged")] == [1, 1, 0]


def test_what_others_say_is_text_and_no_markup() -> None:
    """An error of Ray's, or another run's host, may be anything; notebooks have consoles with markup."""
    one, other = make_cell(), make_distilled()
    console = _console(terminal=False)
    with Progress([one, other], 0, console) as progress:
        progress.hear(Event("split", one.cell_id, reason="see [worker] of [/core]"))
        progress.hear(Event("held", one.cell_id, reason="run 0 on [/x] trains it"))
        progress.hear(Event("held", other.cell_id))
        progress.hear(Event("failed", one.cell_id, reason="KeyError: '[/b]'"))
    split, held, somebody, failed = _text(console).splitlines()
    assert split.endswith(": see [worker] of [/core]")
    assert held == "run 0 on [/x] trains it, and maybe others: its results will be shared"
    assert somebody.startswith("another run trains some cells, and maybe others")
    assert "'[/b]'" in failed


def test_the_display_shows_what_runs_and_where_it_is() -> None:
    one, other = make_cell(), make_distilled()
    progress = Progress([one, other], 3, _console(terminal=True))
    progress.hear(Event("epoch", one.cell_id, 2, {"top1": 55.5}))
    progress.hear(Event("diverged", other.cell_id, 1, reason="the loss was not finite in epoch 1, step 4"))
    console = _console(terminal=False)
    console.print(progress)
    text = _text(console)
    assert "0/2 cells finished, 1 running, 1 failed or diverged, 3 finished before" in text
    assert "2/3" in text
    assert "55.50" in text


def test_epochs_of_an_earlier_run_do_not_flatter_the_estimate() -> None:
    cell = make_cell(epochs=100)
    progress = Progress([cell], 0, _console(terminal=False))
    progress.hear(Event("started", cell.cell_id, 90))
    assert "eta" not in progress._timing()
    progress.hear(Event("epoch", cell.cell_id, 91, {"top1": 1.0}))
    assert progress.skipped == 90
    assert "eta" in progress._timing()


def test_costly_cells_weigh_more_in_the_estimate() -> None:
    cheap, costly = make_cell(seed=1), make_cell(seed=2)
    progress = Progress([cheap, costly], 0, _console(terminal=False))
    progress.weigh({cheap.cell_id: 10.0, costly.cell_id: 90.0})
    progress.hear(Event("started", cheap.cell_id, 0))
    progress.hear(Event("epoch", cheap.cell_id, 1))
    assert progress.done / progress.total_work == pytest.approx(0.1 / 3)
    progress.hear(Event("finished", costly.cell_id, 3, {"top1": 1.0}))
    assert progress.done / progress.total_work == pytest.approx(0.9 + 0.1 / 3)


def test_a_split_cohort_is_told_and_ends_no_cell() -> None:
    cell, console = make_cell(), _console(terminal=False)
    progress = Progress([cell], 0, console)
    progress.hear(Event("split", cell.cell_id, reason="2 students do not fit into memory"))
    assert f"cohort of {cell.cell_id} split in two: 2 students do not fit into memory" in _text(console)
    assert progress.ended == {}


def test_strangers_are_ignored() -> None:
    progress = Progress([make_cell()], 0, _console(terminal=False))
    progress.hear(Event("finished", "0" * 16, 1, {"top1": 1.0}))
    assert progress.count("finished") == 0
