"""`kill -9` of drivers, whole jobs and processes that train a cohort together; Ctrl-C in between."""

import random
import signal
import time
from collections import Counter

import psutil
from chaos import LONG, LONG_PROFILE, Run, check_whole, hunt
from counting import Count, Make, Undisturbed, Watch
from service import PROFILE

# Two processes train each cohort; a batch is two micro-batches.
TOGETHER = PROFILE.replace("micro_batch_size: 180", "micro_batch_size: 90")
TOGETHER += "machine: {cpus_per_cohort: 1, devices_per_cohort: 2}\n"
ONE_CELL = "cells: {student: small, epochs: 7, loss: ce}"
ROUNDS = ["driver", "whole job", "SIGINT", "driver", "whole job"]


def test_drivers_and_whole_jobs_die_and_the_same_command_goes_on(
    make: Make, watch: Watch, undisturbed: Undisturbed, chance: random.Random, count: Count
) -> None:
    service, witness = make(LONG_PROFILE + "machine: {checkpoint_every: 2}\n")
    witness.slow(0.05)
    runs: list[Run] = []
    for what in chance.sample(ROUNDS, len(ROUNDS)):
        receipts, begun = service.receipts(), witness.begun()
        run = watch(service.start("run"))
        runs.append(run)
        wanted = len(begun) + chance.randint(1, 8)
        run.wait_for(lambda wanted=wanted: len(witness.begun()) >= wanted)
        time.sleep(chance.uniform(0, 0.3))
        if what == "driver":
            run.kill()
            count.kill(what)
        elif what == "whole job":
            run.kill_all()
            count.kill(what)
        else:
            run.process.send_signal(signal.SIGINT)
            assert run.end() == 130, run.said
            assert "checkpoints are kept" in run.said
            assert "Traceback" not in run.said
            count(what)
        assert receipts.items() <= service.receipts().items()
        # What was finished before was not begun again.
        assert not {each.cell_id for each in witness.begun()[len(begun) :]} & receipts.keys()
    witness.slow(0)
    run = watch(service.start("run"))
    runs.append(run)
    assert run.end() == 0, run.said
    witness.repeated(interval=2)
    check_whole(service, undisturbed(LONG_PROFILE, LONG), {process for run in runs for process in run.seen})


def test_processes_that_train_together_die_in_turn(
    make: Make, watch: Watch, undisturbed: Undisturbed, chance: random.Random, count: Count
) -> None:
    service, witness = make(TOGETHER, ONE_CELL)
    witness.slow(0.1)
    run = watch(service.start("run"))

    def prey(rank: psutil.Process) -> list[psutil.Process]:
        # The trial, too, of whom the others are orphans; a rank comes first.
        return [*run.ranks(), *(run.trials() if killed else ())] if witness.saved(rank.pid) else []

    killed: Counter[str] = Counter()
    for victim in hunt(run, witness, chance, run.ranks, prey, most=3):
        count.kill(victim)
        killed[victim] += 1
    witness.slow(0)
    assert run.end() == 0, run.said
    assert killed["rank"] >= 1
    assert killed.total() >= 2
    assert 0 < witness.repeated() <= killed.total()
    check_whole(service, undisturbed(TOGETHER, ONE_CELL), run.seen)
