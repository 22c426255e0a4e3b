"""When the circuit breaker stops a wave."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from cells import make_cell

from pld_grid.experiment.cell import Cell, Loss, Model
from pld_grid.experiment.cohort import Cohort
from pld_grid.experiment.events import CellFailed, CellLost, CellStarted, EpochCompleted, Event
from pld_grid.orchestrate import waves
from pld_grid.orchestrate.circuit_breaker import MIN_FAILURES, CircuitBreaker
from pld_grid.orchestrate.tuner import TrialFailure
from pld_grid.store import Store, stop_requests
from pld_grid.train.run_context import RunContext
from pld_grid.util.errors import WaveStopped

CELLS = [make_cell(student=Model(architecture=f"net{index % 3}"), seed=index) for index in range(3 * MIN_FAILURES)]
ERROR = "ValueError: no"
DEATH = TrialFailure("The actor died", 9)


def make_breaker(cells: list[Cell] = CELLS) -> CircuitBreaker:
    return CircuitBreaker([Cohort(tuple(cells))])


def send(breaker: CircuitBreaker, event: type[Event], cells: list[Cell], **fields: Any) -> None:
    for cell in cells:
        breaker.on_event(event(cell.cell_id, **fields))


def fail(breaker: CircuitBreaker, cells: list[Cell], reason: str = ERROR) -> None:
    send(breaker, CellFailed, cells, reason=reason)


def test_breaker_trips_when_the_first_cells_fail_alike():
    breaker = make_breaker()
    send(breaker, CellStarted, CELLS[:MIN_FAILURES])
    fail(breaker, CELLS[: MIN_FAILURES - 1])
    assert breaker.error == ""
    # A cell that starts after the last of the first failures is not awaited.
    fail(breaker, CELLS[MIN_FAILURES - 1 : MIN_FAILURES])
    send(breaker, CellStarted, CELLS[-1:])
    assert breaker.error == ERROR
    assert len(breaker.failed) == MIN_FAILURES
    send(breaker, EpochCompleted, CELLS[-1:], epoch=1)
    assert breaker.error == ERROR


def test_breaker_with_different_errors_does_not_trip():
    breaker = make_breaker()
    for index, cell in enumerate(CELLS[: 2 * MIN_FAILURES]):
        fail(breaker, [cell], f"ValueError: {index == 3}")
    assert breaker.error == ""


def test_breaker_awaits_running_cells():
    breaker, progressing = make_breaker(), make_breaker()
    for each in (breaker, progressing):
        send(each, CellStarted, CELLS[: MIN_FAILURES + 1])
        fail(each, CELLS[:MIN_FAILURES])
        assert each.error == ""
    fail(breaker, CELLS[MIN_FAILURES : MIN_FAILURES + 1])
    assert breaker.error == ERROR
    send(progressing, EpochCompleted, CELLS[MIN_FAILURES : MIN_FAILURES + 1], epoch=0)
    fail(progressing, CELLS[MIN_FAILURES:])
    assert progressing.error == ""


def test_breaker_with_one_bad_student_trips_only_if_there_is_no_other():
    same_student = [cell for cell in CELLS if cell.student.architecture == "net0"]
    assert len(same_student) == MIN_FAILURES
    among_others = make_breaker()
    fail(among_others, same_student)
    assert among_others.error == ""
    alone = make_breaker([*same_student, make_cell(student=Model(architecture="net0"), seed=99)])
    fail(alone, same_student)
    assert alone.error == ERROR


@pytest.mark.parametrize(
    "part",
    [
        {"loss": Loss(name="ls", hyperparameters={"eps": 0.1})},
        {"optimizer": CELLS[0].optimizer.model_copy(update={"name": "adan"})},
    ],
    ids=lambda part: next(iter(part)),
)
def test_breaker_with_one_bad_loss_or_optimizer_trips_only_after_others_failed(part):
    bad = [make_cell(student=cell.student, seed=cell.seed, **part) for cell in CELLS]
    breaker = make_breaker([*bad, *CELLS])
    fail(breaker, bad)
    assert breaker.error == ""
    fail(breaker, CELLS[:1])
    assert breaker.error == ERROR


def test_breaker_of_a_small_wave_never_trips():
    breaker = make_breaker(CELLS[:MIN_FAILURES])
    fail(breaker, CELLS[:MIN_FAILURES])
    assert breaker.error == ""


def test_run_plan_when_all_cells_of_a_wave_are_lost_runs_the_next_wave(tmp_path, monkeypatch):
    """The breaker trips after the wave's trials have ended, and leaves no stop request behind."""
    store, tried = Store(tmp_path), []
    cohorts = [Cohort((cell,)) for cell in CELLS]
    later = Cohort((make_cell(seed=99),))

    def run_trials(
        cohorts: Sequence[Cohort], context: RunContext, *_: object
    ) -> list[tuple[Cohort, TrialFailure | None]]:
        assert not stop_requests.requested(store, context.run)
        tried.append(list(cohorts))
        return [(cohort, DEATH) for cohort in cohorts]

    monkeypatch.setattr(waves, "run_trials", run_trials)
    events: list[Event] = []
    waves.run_plan(SimpleNamespace(waves=[cohorts, [later]]), RunContext(store=str(tmp_path), run="r"), events.append)
    assert tried == [cohorts, [later]]
    assert [type(event) for event in events] == [CellLost] * (len(CELLS) + 1)
    assert not stop_requests.requested(store, "r")


def test_run_plan_when_the_first_cells_fail_alike_does_not_bisect_a_cohort(tmp_path, monkeypatch):
    cohorts = [Cohort((cell,)) for cell in CELLS[:-2]] + [Cohort(tuple(CELLS[-2:]))]
    monkeypatch.setattr(waves, "run_trials", lambda cohorts, *_: [(cohort, DEATH) for cohort in cohorts])
    message = rf"the first {len(CELLS) - 2} cells .* the other 2 were not tried: its worker"
    with pytest.raises(WaveStopped, match=message):
        waves.run_plan(SimpleNamespace(waves=[cohorts]), RunContext(store=str(tmp_path), run="r"), lambda _: None)
