"""Everything that users get wrong, through the front door: one line, the exit code, nothing started or written."""

import struct
from pathlib import Path

import pytest
from corpus import evidence, grids, kinds, models, names, profiles, tables, weights
from front_door import Case, FrontDoor

ALL = {f"{kind}: {name}": case for kind, cases in kinds().items() for name, case in cases.items()}
# One of each kind, and those that only a process of its own can show.
ALONE = {f"{kind}: {next(iter(cases))}" for kind, cases in kinds().items()}
ALONE |= {name for name, case in ALL.items() if case.alone}


def test_the_corpus_is_large_and_no_case_is_there_twice() -> None:
    distinct = {(c.command, *sorted(c.files.items()), *sorted(c.settings.items()), c.prepare) for c in ALL.values()}
    assert len(distinct) == len(ALL) >= 150
    files = {path.stem for path in (Path(__file__).parent / "corpus").glob("*.py")} - {"__init__"}
    assert files == kinds().keys()
    assert all(kinds().values())


@pytest.mark.parametrize("name", ALL)
def test_is_refused_in_one_line(door: FrontDoor, name: str) -> None:
    door.refuses(ALL[name])


@pytest.mark.parametrize("name", sorted(ALONE))
def test_is_refused_as_people_start_it(door: FrontDoor, name: str) -> None:
    door.refuses_alone(ALL[name])


WEIGHTS = {
    **weights.FILES,
    f"weights/{weights.NAME}.safetensors": struct.pack("<Q", len(weights.HEADER)) + weights.HEADER + bytes(400),
}
EVIDENCE = evidence.line(evidence.HEADER, {}) + evidence.line(evidence.RECORD, {})
PRINTED = {"reports/paper/mine.csv": tables.PRINTED, "reports/paper/claims.yaml": tables.CLAIMS}
OWN = ("--profile", "own.yaml")
FINE = {
    "grids": Case(("plan", "own.yaml"), "", {"own.yaml": grids.block("seed: 0")}),
    "profiles": Case(("plan", "my grid.yaml", *OWN), "", {"my grid.yaml": names.GRID, "own.yaml": profiles.PROFILE}),
    "models": Case(
        ("plan", "mine.yaml", *OWN), "", models.files("layers: [2, 2, 2, 2], act_layer: gelu, stem_width: 9000")
    ),
    "largest sizes": Case(
        ("plan", "my grid.yaml", *OWN),
        "",
        {
            "my grid.yaml": names.GRID,
            "own.yaml": profiles.PROFILE.replace("image_size: 16", "image_size: 512").replace("128", "1442"),
        },
    ),
    "names": Case(
        ("plan", "mine.yaml", *OWN), "", {"mine.yaml": names.GRID, "own.yaml": names.with_option("act_layer: gelu")}
    ),
    "tables": Case(("report", "grid.yaml"), "", {"grid.yaml": tables.GRID, **PRINTED}),
    "weights": Case(("plan", "mine.yaml", "--profile", "one.yaml", "--weights-dir", "weights"), "", WEIGHTS),
    "evidence": Case(
        ("report", "--from", "records", "--out", "mine"), "records are of no cell", {"mine/records.jsonl": EVIDENCE}
    ),
}


@pytest.mark.parametrize("kind", FINE)
def test_what_cases_are_made_from_is_fine(door: FrontDoor, kind: str) -> None:
    """So that each is refused for the one thing that is wrong with it."""
    FINE[kind].lay_out(door.work)
    code, _, err = door.run(FINE[kind])
    # A record of no known cell is a line's only fault that is not the line's.
    assert (code == 0) == (FINE[kind].says == ""), err
    assert FINE[kind].says in err
