"""When a wave is stopped, and when it is not."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from cells import make_cell

from pld_grid import stop
from pld_grid.errors import WaveStopped
from pld_grid.events import Event
from pld_grid.plan import Cohort
from pld_grid.schedule import waves
from pld_grid.schedule.breaker import ALIKE, Breaker
from pld_grid.schedule.tuner import Death
from pld_grid.spec import Cell, Loss, Model
from pld_grid.store import Store
from pld_grid.train.surroundings import Surroundings

CELLS = [make_cell(student=Model(architecture=f"net{place % 3}"), seed=place) for place in range(3 * ALIKE)]


def breaker(cells: list[Cell] = CELLS) -> Breaker:
    return Breaker([Cohort(tuple(cells))])


def tell(found: Breaker, kind: str, cells: list[Cell], reason: str = "") -> None:
    for cell in cells:
        found.hear(Event.of(kind, cell.cell_id, reason=reason))


def test_five_that_fail_alike_before_anything_else() -> None:
    found = breaker()
    tell(found, "started", CELLS[:ALIKE])
    tell(found, "failed", CELLS[: ALIKE - 1], "ValueError: no")
    assert found.error == ""
    tell(found, "failed", CELLS[ALIKE - 1 : ALIKE], "ValueError: no")
    assert found.error == "ValueError: no"
    assert found.failed == ALIKE


def test_not_of_different_errors() -> None:
    found = breaker()
    for place, cell in enumerate(CELLS[: 2 * ALIKE]):
        tell(found, "failed", [cell], f"ValueError: {place == 3}")
    assert found.error == ""


def test_not_while_another_still_runs_or_after_one_got_on() -> None:
    found = breaker()
    tell(found, "started", CELLS[: ALIKE + 1])
    tell(found, "failed", CELLS[:ALIKE], "ValueError: no")
    assert found.error == ""
    # One that begins afterwards is not waited for.
    tell(found, "started", CELLS[-1:])
    late = breaker()
    tell(late, "started", CELLS[:ALIKE])
    tell(late, "failed", CELLS[:ALIKE], "ValueError: no")
    tell(late, "started", CELLS[-1:])
    assert late.error == "ValueError: no"
    tell(found, "epoch", CELLS[ALIKE : ALIKE + 1])
    tell(found, "failed", CELLS[ALIKE:], "ValueError: no")
    assert found.error == ""


def test_what_gets_on_when_it_has_tripped_changes_nothing() -> None:
    found = breaker()
    tell(found, "started", CELLS[: ALIKE + 1])
    tell(found, "failed", CELLS[:ALIKE], "ValueError: no")
    tell(found, "started", CELLS[-1:])
    tell(found, "failed", CELLS[ALIKE : ALIKE + 1], "ValueError: no")
    assert found.error == "ValueError: no"
    tell(found, "epoch", CELLS[-1:])
    assert found.error == "ValueError: no"


def test_not_of_one_student_among_others() -> None:
    one = [cell for cell in CELLS if cell.student.architecture == "net0"]
    found = breaker()
    tell(found, "failed", one, "ValueError: no")
    assert len(one) == ALIKE
    assert found.error == ""
    # Where there is no other, it is.
    more = [*one, make_cell(student=Model(architecture="net0"), seed=99)]
    alone = breaker(more)
    tell(alone, "failed", one, "ValueError: no")
    assert alone.error == "ValueError: no"


@pytest.mark.parametrize("part", ["loss", "optimizer"])
def test_not_of_one_loss_or_optimizer_among_others(part: str) -> None:
    bad = {"loss": Loss(name="ls", hyperparameters={"eps": 0.1})}
    if part == "optimizer":
        bad = {"optimizer": CELLS[0].optimizer.model_copy(update={"name": "adan"})}
    one = [make_cell(student=cell.student, seed=cell.seed, **bad) for cell in CELLS]
    found = breaker([*one, *CELLS])
    tell(found, "failed", one, "ValueError: no")
    assert found.error == ""
    tell(found, "failed", CELLS[:1], "ValueError: no")
    assert found.error == "ValueError: no"


def test_what_all_are_lost_to_stops_no_later_wave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The breaker may trip when a wave's trials have ended: nobody is left to be told to stop."""
    store, tried = Store(tmp_path), []
    cohorts = [Cohort((cell,)) for cell in CELLS]
    later = Cohort((make_cell(seed=99),))

    def died(told: Sequence[Cohort], surroundings: Surroundings, *_: object) -> list[tuple[Cohort, Death | None]]:
        assert not stop.requested(store, surroundings.run)
        tried.append(list(told))
        return [(cohort, Death("The actor died", 9)) for cohort in told]

    monkeypatch.setattr(waves, "run_trials", died)
    heard: list[Event] = []
    waves.run_plan(SimpleNamespace(waves=[cohorts, [later]]), Surroundings(store=str(tmp_path), run="r"), heard.append)
    assert tried == [cohorts, [later]]
    assert [event.kind for event in heard] == ["lost"] * (len(CELLS) + 1)
    assert not stop.requested(store, "r")


def test_what_would_be_tried_again_is_not_when_all_failed_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohorts = [Cohort((cell,)) for cell in CELLS[:-2]] + [Cohort(tuple(CELLS[-2:]))]
    monkeypatch.setattr(waves, "run_trials", lambda told, *_: [(cohort, Death("The actor died", 9)) for cohort in told])
    with pytest.raises(
        WaveStopped, match=rf"the first {len(CELLS) - 2} cells .* the other 2 were not tried: its worker"
    ):
        waves.run_plan(SimpleNamespace(waves=[cohorts]), Surroundings(store=str(tmp_path), run="r"), lambda _: None)


def test_not_of_so_few_that_nothing_would_be_saved() -> None:
    found = breaker(CELLS[:ALIKE])
    tell(found, "failed", CELLS[:ALIKE], "ValueError: no")
    assert found.error == ""
