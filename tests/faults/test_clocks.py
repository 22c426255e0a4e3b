"""Clocks that jump by hours, forwards and backwards, in every process of a run."""

import random
import re
from pathlib import Path

from chaos import LONG, LONG_PROFILE, check_whole
from counting import Count, Undisturbed, Watch
from early import early
from service import Service

from pld_grid.store import Store, claims

# Whoever asks for the time gets it some hours wrong, and every second or so wrong by other hours, once a file says so:
# Ray's own start takes a jump for the end of its patience.
JUMPING = """
import random, threading, time

true, steady = time.time, time.monotonic
chance = random.Random(f"SEED {sys.argv[:1]}")
jumps = [0.0, steady() + 1]


def jumping():
    if steady() > jumps[1] and os.path.exists(f"{HERE}/jump"):
        jumps[:] = chance.uniform(-6, 6) * 3600, steady() + chance.uniform(0.2, 2)
        with open(f"{HERE}/jumps", "a") as diary:
            diary.write(f"{os.getpid()} {jumps[0]:.0f}\\n")
    return true() + jumps[0]


time.time = jumping
"""


def test_clocks_that_jump_change_nothing(
    tmp_path: Path, database: Path, undisturbed: Undisturbed, watch: Watch, chance: random.Random, count: Count
) -> None:
    service = Service(tmp_path / "run", profile=LONG_PROFILE, grid=LONG, database=database)
    service.environment |= early(tmp_path / "early", JUMPING.replace("SEED", str(chance.random())))
    run = watch(service.start("run", "--report", "tables"))
    run.wait_for(lambda: list(service.store.glob("*/claims/*.json")), within=400)
    (tmp_path / "early" / "jump").touch()
    assert run.end(within=600) == 0, run.said
    store = Store(service.store)
    jumps = [line.split() for line in (tmp_path / "early" / "jumps").read_text().splitlines()]
    assert min(int(hours) for _, hours in jumps) < -3600
    assert max(int(hours) for _, hours in jumps) > 3600
    count("jump of a clock", len(jumps))
    # Nobody was taken for dead, nothing took a negative time.
    assert "5 cells trained" in run.said
    assert not re.search(r"hangs|died|others may take|Traceback", run.said), run.said
    assert not re.search(r"(?<![\w.])-\d+(\.\d+)? ?(s|m|h|ms|min|hours?)\b|eta -", run.said), run.said
    for cell_id in store.cell_ids():
        assert [entry.kind for entry in claims.entries(store, cell_id)] == ["claimed", "finished"]
    made = [receipt.provenance for receipt in service.receipts().values()]
    assert [each for each in made if each.ended < each.started] == []
    check_whole(service, undisturbed(LONG_PROFILE, LONG), run.seen)
