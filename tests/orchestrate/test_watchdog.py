"""Which processes the watchdog ends as hung."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pld_grid.orchestrate import watchdog
from pld_grid.orchestrate.watchdog import end_hung_workers, end_worker
from pld_grid.store import Store, leases, sha256
from pld_grid.store.leases import Heartbeat, Lease, read_heartbeat
from pld_grid.util.errors import StoreError

WORKER = """
import sys
from pld_grid.store import Store
from pld_grid.store.leases import Lease
Lease(Store(sys.argv[1]), "worker").record_heartbeat()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("process_name", "ended"), [("ray::ImplicitFunc.train", True), ("python", False)])
def test_end_worker_kills_only_workers_of_ray(tmp_path, process_name, ended):
    """Everyone with write access to the store can write a heartbeat that names any process."""
    with subprocess.Popen(
        [process_name, "-c", WORKER, str(tmp_path)],
        executable=sys.executable,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # under its name, it would not find its packages
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            heartbeat = read_heartbeat(Store(tmp_path), "worker")
            assert heartbeat.pid == process.pid
            assert not end_worker(heartbeat.model_copy(update={"machine": "elsewhere"}))
            assert end_worker(heartbeat)
            if ended:
                assert process.wait(timeout=60) == -9
            assert leases.is_dead(heartbeat) == ended
        finally:
            process.kill()


@pytest.mark.parametrize("pid", [0, -1, -(2**31), 2**31, 10**30])
def test_end_worker_with_a_forged_pid_kills_no_process_group(tmp_path, pid, monkeypatch):
    store, killed = Store(tmp_path), []
    Lease(store, "run-1").record_heartbeat()
    body = json.dumps(read_heartbeat(store, "run-1").model_dump() | {"pid": pid}).encode()
    forged = b'{"sha256":"%s","content":%s}\n' % (sha256(body).encode(), body)
    store.write(forged, leases.FOLDER, "run-1.json")
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
    end_worker(read_heartbeat(store, "run-1"))
    leases.remove_dead(store)
    assert killed == []


class HungRun:
    """A run whose worker, on another machine, wrote one heartbeat."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = Store(folder)
        Lease(self.store, "run-1").record_heartbeat()
        elsewhere = read_heartbeat(self.store, "run-1").model_copy(update={"machine": "elsewhere"})
        self.store.write(leases.add_checksum(elsewhere), leases.FOLDER, "run-1.json")
        monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.01)
        monkeypatch.setattr(leases, "LEASE_TTL_SECONDS", 0.2)

    @property
    def ended(self) -> bool:
        return read_heartbeat(self.store, "run-1") is None

    def watch(self, until: Callable[[], bool]) -> set[str]:
        """Return the leases of the workers that were ended until a condition holds at a check."""
        list_names, done = self.store.names, threading.Event()

        def names(*parts: str) -> list[str]:
            if threading.current_thread().name == "pld_grid-watchdog" and until():
                done.set()
            return list_names(*parts)

        self.store.names = names  # type: ignore[method-assign]
        with end_hung_workers(self.store, "run") as hung:
            assert done.wait(60)
            return set(hung)  # type: ignore[call-overload]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HungRun:
    return HungRun(tmp_path, monkeypatch)


def test_watchdog_when_a_worker_was_not_ended_tries_again_and_warns_once(run, monkeypatch, caplog):
    results = [False, False, True]
    monkeypatch.setattr(watchdog, "_end_on_its_node", lambda _: results.pop(0))
    with caplog.at_level(logging.WARNING):
        assert run.watch(lambda: not results and run.ended) == {"run-1"}
    (record,) = caplog.records
    assert "hangs and is ended" in record.message


def test_watchdog_after_an_error_continues(run, monkeypatch, caplog):
    errors, list_leases = [MemoryError()], leases.list_leases

    def fail_once(store: Store, name: str) -> list[str]:
        if errors:
            raise errors.pop()
        return list_leases(store, name)

    monkeypatch.setattr(leases, "list_leases", fail_once)
    monkeypatch.setattr(watchdog, "_end_on_its_node", lambda _: True)
    assert run.watch(lambda: run.ended) == {"run-1"}
    assert caplog.records[0].message == "hung workers are not detected for a moment: MemoryError"


def test_watchdog_while_the_store_cannot_be_written_ends_nothing(run, monkeypatch):
    ended, writes, enough = list[Heartbeat](), 0, threading.Event()
    monkeypatch.setattr(watchdog, "_end_on_its_node", lambda heartbeat: ended.append(heartbeat) or True)

    def fail(*_: object, **__: object) -> None:
        nonlocal writes
        writes += 1
        if writes == 60:  # three times as long as a lease lasts
            enough.set()
        raise StoreError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(run.store, "write", fail)
        with end_hung_workers(run.store, "run"):
            assert enough.wait(60)
    assert ended == []
    # Once heartbeats can be written again, their absence counts.
    assert run.watch(lambda: bool(ended)) <= {"run-1"}
