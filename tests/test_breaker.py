"""When a wave is stopped, and when it is not."""

from cells import make_cell

from pld_grid.events import Event
from pld_grid.plan import Cohort
from pld_grid.schedule.breaker import ALIKE, Breaker
from pld_grid.spec import Cell, Model

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


def test_not_of_so_few_that_nothing_would_be_saved() -> None:
    found = breaker(CELLS[:ALIKE])
    tell(found, "failed", CELLS[:ALIKE], "ValueError: no")
    assert found.error == ""
