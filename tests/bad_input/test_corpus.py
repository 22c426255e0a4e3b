"""Every user error gives one line and its exit code, and starts or writes nothing."""

import struct
from pathlib import Path

import pytest
from corpus import evidence, grids, kinds, models, names, profiles, tables, weights
from error_cases import Case

ALL = {f"{kind}: {name}": case for kind, cases in kinds().items() for name, case in cases.items()}
# One case of each kind, and those that need a process of their own.
ALONE = {f"{kind}: {next(iter(cases))}" for kind, cases in kinds().items()}
ALONE |= {name for name, case in ALL.items() if case.alone}


def test_corpus_is_large_and_has_no_duplicates():
    distinct = {(c.command, *sorted(c.files.items()), *sorted(c.settings.items()), c.prepare) for c in ALL.values()}
    assert len(distinct) == len(ALL) >= 150
    files = {path.stem for path in (Path(__file__).parent / "corpus").glob("*.py")} - {"__init__"}
    assert files == kinds().keys()
    assert all(kinds().values())


@pytest.mark.parametrize("name", ALL)
def test_case_is_one_error_line(door, name):
    door.check_in_process(ALL[name])


@pytest.mark.parametrize("name", sorted(ALONE))
def test_case_in_subprocess_is_one_error_line(door, name):
    door.check_in_subprocess(ALL[name])


WEIGHTS = {
    **weights.FILES,
    f"weights/{weights.NAME}.safetensors": struct.pack("<Q", len(weights.HEADER)) + weights.HEADER + bytes(400),
}
EVIDENCE = evidence.line(evidence.HEADER, {}) + evidence.line(evidence.RECORD, {})
PRINTED = {"reports/paper/mine.csv": tables.PRINTED, "reports/paper/claims.yaml": tables.CLAIMS}
OWN = ("--profile", "own.yaml")
VALID = {
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


@pytest.mark.parametrize("kind", VALID)
def test_inputs_that_cases_modify_are_valid(door, kind):
    """Each case is then rejected for its one change."""
    VALID[kind].lay_out(door.work)
    code, _, err = door.run(VALID[kind])
    # The record is valid, but of no known cell.
    assert (code == 0) == (VALID[kind].says == ""), err
    assert VALID[kind].says in err
