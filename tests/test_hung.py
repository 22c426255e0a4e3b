"""Which processes are ended as hung."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pld_grid.errors import StoreError
from pld_grid.schedule import watch
from pld_grid.schedule.watch import end_worker, hung_workers_ended
from pld_grid.store import Store, leases, sha256
from pld_grid.store.leases import Beat, Lease

LIVING = """
import sys
from pld_grid.store import Store
from pld_grid.store.leases import Lease
Lease(Store(sys.argv[1]), "theirs").beat()
print("there", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("named", "ended"), [("ray::ImplicitFunc.train", True), ("python", False)])
def test_only_workers_of_ray_are_ended(tmp_path: Path, named: str, ended: bool) -> None:
    """A beat may be anybody's who can write into the store, and name any process."""
    with subprocess.Popen(
        [named, "-c", LIVING, str(tmp_path)],
        executable=sys.executable,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # by its name, it would not find its packages
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            beat = leases.read(Store(tmp_path), "theirs")
            assert beat is not None
            assert beat.pid == process.pid
            assert not end_worker(beat.model_copy(update={"machine": "elsewhere"}))
            assert end_worker(beat)
            if ended:
                assert process.wait(timeout=60) == -9
            assert leases.gone(beat) == ended
        finally:
            process.kill()


@pytest.mark.parametrize("pid", [0, -1, -(2**31), 2**31, 10**30])
def test_no_beat_names_a_group_of_processes_or_all(tmp_path: Path, pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store, killed = Store(tmp_path), []
    Lease(store, "run-1").beat()
    beat = leases.read(store, "run-1")
    assert beat is not None
    body = json.dumps(beat.model_dump() | {"pid": pid}).encode()
    forged = b'{"sha256":"%s","content":%s}\n' % (sha256(body).encode(), body)
    store.write(forged, leases.FOLDER, "run-1.json")
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
    found = leases.read(store, "run-1")
    assert found is not None
    end_worker(found)
    leases.forget(store)
    assert killed == []


class Watched:
    """A run whose worker, on another machine, gave one sign of life, and a store that a test can break."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.looks, self.enough = Store(folder), 0, threading.Event()
        self.write = self.store.write
        Lease(self.store, "run-1").beat()
        beat = leases.read(self.store, "run-1")
        assert beat is not None
        self.store.write(
            leases.enveloped(beat.model_copy(update={"machine": "elsewhere"})), leases.FOLDER, "run-1.json"
        )
        monkeypatch.setattr(leases, "BEAT", 0.01)
        monkeypatch.setattr(leases, "LAPSED", 0.2)

    def watch(self, until: Callable[[int], bool]) -> set[str]:
        """Watches until so many looks; what was ended as hung."""
        names, looks, enough = self.store.names, 0, threading.Event()

        def counting(*parts: str) -> list[str]:
            nonlocal looks
            if threading.current_thread().name == "pld_grid-watch":
                looks += 1
                if until(looks):
                    enough.set()
            return names(*parts)

        self.store.names = counting  # type: ignore[method-assign]
        with hung_workers_ended(self.store, "run") as hung:
            assert enough.wait(60)
            return set(hung)  # type: ignore[call-overload]


def test_a_worker_that_could_not_be_ended_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, answers = Watched(tmp_path, monkeypatch), [False, False, True]
    monkeypatch.setattr(watch, "_end", lambda beat: answers.pop(0))
    with caplog.at_level(logging.WARNING):
        assert run.watch(lambda _: not answers and leases.read(run.store, "run-1") is None) == {"run-1"}
    assert [record.message for record in caplog.records if "hangs and is ended" in record.message] != []
    assert len(caplog.records) == 1


def test_who_looks_after_workers_goes_on_when_it_cannot_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, failures, seen = Watched(tmp_path, monkeypatch), [MemoryError()], leases.of_run

    def of_run(store: Store, name: str) -> list[str]:
        if failures:
            raise failures.pop()
        return seen(store, name)

    monkeypatch.setattr(leases, "of_run", of_run)
    monkeypatch.setattr(watch, "_end", lambda beat: True)
    assert run.watch(lambda _: leases.read(run.store, "run-1") is None) == {"run-1"}
    assert caplog.records[0].message == "workers are not looked after for a moment: MemoryError"


def test_nobody_is_taken_for_hung_while_nobody_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, ended, writes = Watched(tmp_path, monkeypatch), list[Beat](), 0
    enough = threading.Event()
    monkeypatch.setattr(watch, "_end", lambda beat: ended.append(beat) or True)

    def full(*_: object, **__: object) -> None:
        nonlocal writes
        writes += 1
        if writes == 60:  # three times as long as silence may last
            enough.set()
        raise StoreError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(run.store, "write", full)
        with hung_workers_ended(run.store, "run"):
            assert enough.wait(60)
    assert ended == []
    # As soon as others could, silence counts.
    assert run.watch(lambda _: bool(ended)) <= {"run-1"}
