"""`kill -9` of drivers, whole jobs and processes that train a cohort together; Ctrl-C in between."""

import signal
import time
from collections import Counter

import psutil
from cli_process import PROFILE
from process_kills import LONG, LONG_PROFILE, Run, check_results, kill_at_random

# Two processes train each cohort; a batch is two micro-batches.
TOGETHER = PROFILE.replace("micro_batch_size: 180", "micro_batch_size: 90")
TOGETHER += "machine: {cpus_per_cohort: 1, devices_per_cohort: 2}\n"
ONE_CELL = "cells: {student: small, epochs: 7, loss: ce}"
ROUNDS = ["driver", "whole job", "SIGINT", "driver", "whole job"]


def test_run_whose_driver_or_whole_job_is_killed_continues_with_the_same_command(
    make, watch, undisturbed, chance, count
):
    service, recorder = make(LONG_PROFILE + "machine: {checkpoint_every: 2}\n")
    recorder.slow_down(0.05)
    runs: list[Run] = []
    for what in chance.sample(ROUNDS, len(ROUNDS)):
        receipts, started = service.receipts(), recorder.epochs_started()
        run = watch(service.start("run"))
        runs.append(run)
        wanted = len(started) + chance.randint(1, 8)
        run.wait_for(lambda wanted=wanted: len(recorder.epochs_started()) >= wanted)
        time.sleep(chance.uniform(0, 0.3))
        if what == "driver":
            run.kill()
            count.kill(what)
        elif what == "whole job":
            run.kill_all()
            count.kill(what)
        else:
            run.process.send_signal(signal.SIGINT)
            assert run.end() == 130, run.output
            assert "checkpoints are kept" in run.output
            assert "Traceback" not in run.output
            count(what)
        assert receipts.items() <= service.receipts().items()
        # No finished cell was started again.
        assert not {each.cell_id for each in recorder.epochs_started()[len(started) :]} & receipts.keys()
    recorder.slow_down(0)
    run = watch(service.start("run"))
    runs.append(run)
    assert run.end() == 0, run.output
    recorder.count_repeated_epochs(interval=2)
    check_results(service, undisturbed(LONG_PROFILE, LONG), {process for run in runs for process in run.started})


def test_cohort_on_two_devices_whose_processes_are_killed_gives_the_same_numbers(
    make, watch, undisturbed, chance, count
):
    service, recorder = make(TOGETHER, ONE_CELL)
    recorder.slow_down(0.1)
    run = watch(service.start("run"))

    def choose_victims(rank: psutil.Process) -> list[psutil.Process]:
        # First a rank, later also the trial, which leaves the ranks as orphans.
        return [*run.list_ranks(), *(run.list_trials() if killed else ())] if recorder.has_checkpoint(rank.pid) else []

    killed: Counter[str] = Counter()
    for victim in kill_at_random(run, recorder, chance, run.list_ranks, choose_victims, max_kills=3):
        count.kill(victim)
        killed[victim] += 1
    recorder.slow_down(0)
    assert run.end() == 0, run.output
    assert killed["rank"] >= 1
    assert killed.total() >= 2
    assert 0 < recorder.count_repeated_epochs() <= killed.total()
    check_results(service, undisturbed(TOGETHER, ONE_CELL), run.started)
