"""Wall clocks that jump by hours, forwards and backwards, in every process of a run."""

import re

from cli_process import Service
from process_kills import LONG, LONG_PROFILE, SHARED, STUDENTS, check_results
from startup_code import EPOCH_GATE, Gate, write_startup_code

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


# The teacher has four.
EPOCHS_BEFORE = 5
JUMPS_BEFORE = 8


def test_run_with_jumping_clocks_gives_the_same_numbers(tmp_path, database, undisturbed, watch, chance, count):
    service = Service(tmp_path / "run", profile=LONG_PROFILE, grid=LONG, database=database)
    folder = tmp_path / "early"
    service.environment |= write_startup_code(folder, JUMPING.replace("SEED", str(chance.random())), EPOCH_GATE)
    gate = Gate(folder, EPOCHS_BEFORE)

    def jumps() -> list[tuple[int, int]]:
        """Which processes were given a wrong clock, and by how many seconds."""
        lines = (folder / "jumps").read_text().splitlines() if (folder / "jumps").exists() else []
        return [(int(pid), int(seconds)) for pid, seconds in map(str.split, lines)]

    run = watch(service.start("run", "--report", "tables"))
    wanted = f"*/checkpoints/{EPOCHS_BEFORE:06d}.json"
    run.wait_for(lambda: len(list(service.store.glob(wanted))) == STUDENTS)
    # Another driver waits for what the first one trains, and so has to judge whether that is alive.
    other = watch(service.start("run"))
    other.wait_for(lambda: SHARED in other.output)
    trials = run.list_trials()
    (folder / "jump").touch()
    # Only the first driver often asks for the time: who waits, for a gate or for others, does so now and then.
    drivers = [run.process.pid, other.process.pid]
    run.wait_for(lambda: [pid for pid, _ in jumps()].count(drivers[0]) >= JUMPS_BEFORE and drivers[1] in dict(jumps()))
    gate.open()
    for each in (run, other):
        assert each.end() == 0, each.output
        # Nobody was taken for dead, nothing took a negative time.
        assert not re.search(r"hangs|died|others may take|Traceback", each.output), each.output
        assert not re.search(r"(?<![\w.])-\d+(\.\d+)? ?(s|m|h|ms|min|hours?)\b|eta -", each.output), each.output
    assert "5 cells trained" in run.output
    assert {pid for pid, _ in jumps()} >= {*drivers, *(trial.pid for trial in trials)}
    assert min(seconds for _, seconds in jumps()) < -3600
    assert max(seconds for _, seconds in jumps()) > 3600
    count("jump of a clock", len(jumps()))
    store = Store(service.store)
    for cell_id in store.cell_ids():
        assert [entry.kind for entry in claims.read_log(store, cell_id)] == ["claimed", "finished"]
    made = [receipt.provenance for receipt in service.receipts().values()]
    assert [each for each in made if each.ended < each.started] == []
    check_results(service, undisturbed(LONG_PROFILE, LONG), run.started | other.started)
