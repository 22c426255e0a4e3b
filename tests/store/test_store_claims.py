"""Claims and leases: processes that race for a cell, die, hang, are suspended and come back."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from cells import finish, make_cell, make_epochs, make_receipt
from hypothesis import given
from hypothesis import strategies as st
from paths import SUPPORT

from pld_grid.store import Mirror, Receipt, Store, claims, leases, sha256
from pld_grid.store.claims import ClaimLost, Claims
from pld_grid.store.leases import Lease
from pld_grid.util import processes
from pld_grid.util.errors import StoreError

pytestmark = pytest.mark.slow

CELL = make_cell()
FORK = multiprocessing.get_context("fork")


def make_claims(store: Store, run: str, expired: tuple[str, ...] = ()) -> Claims:
    """Return the claims of a process of a run, whose lease has one heartbeat."""
    lease = Lease(store, f"{run}-{uuid.uuid4().hex[:6]}")
    lease.record_heartbeat()
    return Claims(store, lease, run, expired)


def finish_cell(store: Store, run: str = "a", weights: bytes | None = None) -> tuple[Claims, Receipt]:
    """Claim and finish the cell."""
    mine = make_claims(store, run)
    assert mine.acquire(CELL)
    checksum = store.write_weights(CELL.cell_id, weights) if weights is not None else None
    receipt = make_receipt(CELL, weights_sha256=checksum)
    mine.finish(receipt)
    return mine, receipt


def log_kinds(store: Store) -> list[str]:
    return [entry.kind for entry in claims.read_log(store, CELL.cell_id)]


def test_acquire_of_a_claimed_cell_fails_until_and_after_it_is_finished(store):
    first, second = make_claims(store, "a"), make_claims(store, "b")
    assert first.acquire(CELL)
    assert first.acquire(CELL)
    assert not second.acquire(CELL)
    assert first.holds(CELL.cell_id)
    claim = claims.holder(store, CELL.cell_id)
    assert (claim.run, claim.lease) == ("a", first.lease.lease_id)
    receipt = make_receipt(CELL)
    first.finish(receipt)
    assert store.receipt(CELL) == receipt
    assert claims.holder(store, CELL.cell_id) is None
    assert not second.acquire(CELL)
    assert log_kinds(store) == ["claimed", "finished"]


def test_acquire_after_a_release_or_without_a_lease_succeeds(store):
    first, second, third = (make_claims(store, run) for run in "abc")
    assert first.acquire(CELL)
    first.release_all()
    assert second.acquire(CELL)
    store.remove(leases.FOLDER, f"{second.lease.lease_id}.json")
    assert third.acquire(CELL)
    assert log_kinds(store) == ["claimed", "released", "claimed", "claimed"]


def test_finish_and_release_of_a_lost_claim_change_nothing(store):
    first = make_claims(store, "a")
    assert first.acquire(CELL)
    second = make_claims(store, "b", expired=(first.lease.lease_id,))
    assert second.acquire(CELL)
    assert not first.holds(CELL.cell_id)
    with pytest.raises(ClaimLost):
        first.finish(make_receipt(CELL, parameters=1))
    assert store.receipt(CELL) is None
    first.release_all()
    assert second.holds(CELL.cell_id)
    second.finish(make_receipt(CELL, parameters=2))
    assert store.receipt(CELL).parameters == 2
    with pytest.raises(ClaimLost):
        first.finish(make_receipt(CELL, parameters=1))


def test_acquire_of_a_claim_of_the_same_run_succeeds_at_once(store):
    first, again, alone = make_claims(store, "a"), make_claims(store, "a"), make_claims(store, "")
    assert first.acquire(CELL)
    assert again.acquire(CELL)
    assert not first.holds(CELL.cell_id)
    # Processes without a run's name are never of the same run.
    assert not alone.acquire(CELL)
    other = make_claims(store, "", expired=(again.lease.lease_id,))
    assert other.acquire(CELL)
    assert not make_claims(store, "").acquire(CELL)


def test_end_claim_ends_live_claims_of_the_same_run_only(store):
    assert claims.end_claim(store, CELL.cell_id, "a")
    mine = make_claims(store, "a")
    assert mine.acquire(CELL)
    assert not claims.end_claim(store, CELL.cell_id, "b")
    assert claims.end_claim(store, CELL.cell_id, "a")
    assert claims.end_claim(store, CELL.cell_id, "b")
    other = make_claims(store, "b")
    assert other.acquire(CELL)
    other.finish(make_receipt(CELL))
    assert not claims.end_claim(store, CELL.cell_id, "b")
    assert log_kinds(store) == ["claimed", "released", "claimed", "finished"]


@pytest.mark.parametrize("how", ["expired", "removed"])
def test_end_claim_ends_claims_of_dead_processes_of_any_run(store, how):
    other = make_claims(store, "b")
    assert other.acquire(CELL)
    if how == "removed":
        store.remove(leases.FOLDER, f"{other.lease.lease_id}.json")
    assert claims.end_claim(store, CELL.cell_id, "a", (other.lease.lease_id,) if how == "expired" else ())
    assert log_kinds(store) == ["claimed", "released"]
    with pytest.raises(ClaimLost):
        other.finish(make_receipt(CELL))


def test_archive_while_another_process_archives_waits_and_returns_none(store, monkeypatch):
    _, receipt = finish_cell(store)
    move, seconds = Store.archive_cell, []
    polls = threading.Semaphore(0)
    second = threading.Thread(target=lambda: seconds.append(claims.archive(store, receipt, "second")))

    def slow(this: Store, cell_id: str) -> str:
        second.start()
        # The second process waits, so that it never sees half of a result.
        assert polls.acquire(timeout=60)
        assert polls.acquire(timeout=60)
        assert seconds == []
        return move(this, cell_id)

    monkeypatch.setattr(Store, "archive_cell", slow)
    monkeypatch.setattr(claims.time, "sleep", lambda _: polls.release())
    assert claims.archive(store, receipt, "first") is not None
    second.join()
    assert seconds == [None]
    monkeypatch.undo()
    # A process that dies before it has moved anything is followed.
    _, receipt = finish_cell(store, "c")
    monkeypatch.setattr(Store, "archive_cell", lambda *_: None)
    claims.archive(store, receipt, "dead")
    monkeypatch.undo()
    assert claims.archive(store, receipt, "next") is not None


def test_archive_on_an_object_store_shows_in_the_log_until_the_receipt_is_gone(monkeypatch):
    store = Store(f"memory://{uuid.uuid4().hex}/store")
    store.write_cell(CELL)
    _, receipt = finish_cell(store, weights=b"weights")
    seen: list[bool] = []
    remove = store.fs.rm_file

    def watched(path: str) -> None:
        _, last = claims.last_entry(store, CELL.cell_id)
        seen.append(store.receipt(CELL) is None or (last is not None and last.kind == "replaced"))
        remove(path)

    with monkeypatch.context() as watching:
        watching.setattr(store.fs, "rm_file", watched)
        assert claims.archive(store, receipt, "b") is not None
    # The cell, its three claims, its receipt and its weights.
    assert len(seen) >= 6
    assert all(seen)
    assert store.receipt(CELL) is None
    assert log_kinds(store) == []


def test_archive_that_loses_the_race_removes_its_entry(tmp_path, monkeypatch):
    store = Store(tmp_path)
    _, receipt = finish_cell(store)
    create = store.create

    def late(data: bytes, *parts: str) -> bool:
        store.archive_cell(CELL.cell_id)
        return create(data, *parts)

    with monkeypatch.context() as racing:
        racing.setattr(store, "create", late)
        assert claims.archive(store, receipt, "second") is None
    assert log_kinds(store) == []
    assert len([name for name in store.names() if name.startswith(f"{CELL.cell_id}.replaced-")]) == 1
    assert make_claims(store, "c").acquire(CELL)


def test_has_weights_while_they_are_renamed_finds_them(store, monkeypatch):
    receipt = make_receipt(CELL, weights_sha256=store.write_weights(CELL.cell_id, b"weights"))
    read = store.read

    def read_and_finish(*parts: str) -> bytes | None:
        data = read(*parts)
        if parts[-1] == "weights.safetensors" and data is None:
            store.write_receipt(receipt)
        return data

    monkeypatch.setattr(store, "read", read_and_finish)
    assert store.has_weights(receipt)


def test_lease_after_a_failed_heartbeat_warns_once_and_goes_on(tmp_path, monkeypatch, caplog):
    store, failures = Store(tmp_path), [OSError(24, "Too many open files"), MemoryError()]
    record, recovered = Lease.record_heartbeat, threading.Event()

    def record_heartbeat(lease: Lease) -> None:
        if threading.current_thread().name == "pld_grid-lease" and failures:
            raise failures.pop()
        record(lease)
        if not failures:
            recovered.set()

    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(Lease, "record_heartbeat", record_heartbeat)
    with Lease(store, "mine").keep_alive():
        assert recovered.wait(60)
    assert [record.message for record in caplog.records] == ["MemoryError; others may take this process for dead"]


def test_acquire_restores_a_lost_or_damaged_receipt_from_the_log(store):
    _, receipt = finish_cell(store, weights=b"weights")
    for damage in (b"", b"{}", None):
        store.remove(CELL.cell_id, "receipt.json")
        if damage is not None:
            store.write(damage, CELL.cell_id, "receipt.json")
        assert store.receipt(CELL) is None
        assert not make_claims(store, "b").acquire(CELL)
        assert store.receipt(CELL) == receipt
    assert len(store.names(CELL.cell_id, "damaged")) == 2
    assert [note.text.split(";")[0] for note in store.history(CELL.cell_id)] == [
        "receipt.json cannot be used: it is empty",
        "receipt.json cannot be used: its checksum is wrong",
    ]


def test_acquire_of_a_cell_with_damaged_weights_succeeds(store):
    finish_cell(store, weights=b"weights")
    store.write_mirror(CELL.cell_id, Mirror(tracking_uri="x", run_id="y", epochs=3, state="finished"))
    store.write(b"weight", CELL.cell_id, "weights.safetensors")
    store.check_weights(CELL)
    assert store.receipt(CELL) is store.mirror(CELL.cell_id) is None
    assert make_claims(store, "b").acquire(CELL)


def test_weights_of_a_lost_claim_replace_nothing(store):
    first = make_claims(store, "a")
    assert first.acquire(CELL)
    late = make_receipt(CELL, weights_sha256=store.write_weights(CELL.cell_id, b"theirs"))
    second = make_claims(store, "b", expired=(first.lease.lease_id,))
    assert second.acquire(CELL)
    receipt = make_receipt(CELL, weights_sha256=store.write_weights(CELL.cell_id, b"ours"))
    second.finish(receipt)
    with pytest.raises(ClaimLost):
        first.finish(late)
    store.write_weights(CELL.cell_id, b"theirs")
    assert store.read_weights(CELL) == b"ours"


def test_acquire_completes_a_finish_that_was_killed_before_the_receipt(store, monkeypatch):
    mine = make_claims(store, "a")
    assert mine.acquire(CELL)
    receipt = make_receipt(CELL, weights_sha256=store.write_weights(CELL.cell_id, b"weights"))
    # A kill at this point.
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(store, "write_receipt", Mock(side_effect=KeyboardInterrupt))
        mine.finish(receipt)
    assert store.receipt(CELL) is None
    assert not make_claims(store, "b").acquire(CELL)
    assert store.receipt(CELL) == receipt
    assert store.read_weights(CELL) == b"weights"


def test_archive_of_an_archived_cell_returns_none_and_ends_old_claims(store):
    mine, receipt = finish_cell(store)
    assert claims.archive(store, receipt, "b") is not None
    assert claims.archive(store, receipt, "c") is None
    again = make_claims(store, "c")
    assert again.acquire(CELL)
    # Both claims have the same number in their logs.
    assert not mine.holds(CELL.cell_id)
    mine._held.add(CELL.cell_id)
    assert not mine.holds(CELL.cell_id)
    with pytest.raises(ClaimLost):
        mine.finish(receipt)
    assert again.holds(CELL.cell_id)


def test_acquire_of_a_cell_with_a_receipt_of_another_version_raises(store):
    finish(store, CELL)
    body = make_receipt(CELL).canonical[:-1].encode() + b',"zeal":1}'
    text = b'{"sha256":"%s","content":%s}\n' % (sha256(body).encode(), body)
    store.write(text, CELL.cell_id, "receipt.json")
    with pytest.raises(StoreError, match="has a receipt of another version of pld_grid"):
        make_claims(store, "a").acquire(CELL)
    assert store.read(CELL.cell_id, "receipt.json") == text


def test_acquire_after_a_damaged_entry_succeeds(store):
    first, second = make_claims(store, "a"), make_claims(store, "b")
    assert first.acquire(CELL)
    store.write(b"", CELL.cell_id, claims.CLAIMS, "000001.json")
    assert second.acquire(CELL)
    with pytest.raises(ClaimLost):
        first.finish(make_receipt(CELL))


# -- processes ---------------------------------------------------------------------------------------------------------


def _race(uri: str, name: int, start: "multiprocessing.synchronize.Barrier", won: "multiprocessing.Queue[int]") -> None:
    store = Store(uri)
    mine = make_claims(store, f"run-{name}")
    start.wait()
    taken = mine.acquire(CELL)
    # A winner that has exited could be followed.
    start.wait()
    if taken:
        won.put(name)


def test_acquire_by_sixteen_processes_succeeds_in_one(tmp_path):
    for turn in range(5):
        uri = str(tmp_path / f"store-{turn}")
        Store(uri).check_writable()
        start, won = FORK.Barrier(16), FORK.Queue()
        racers = [FORK.Process(target=_race, args=(uri, name, start, won)) for name in range(16)]
        for racer in racers:
            racer.start()
        winner = won.get(timeout=60)
        for racer in racers:
            racer.join()
            assert racer.exitcode == 0
        assert won.empty()
        assert claims.holder(Store(uri), CELL.cell_id).run == f"run-{winner}"


HOLDER = """
import sys
sys.path.insert(0, sys.argv[2])
from cells import make_cell
from pld_grid.store import Store
from pld_grid.store.claims import Claims
from pld_grid.store.leases import Lease
store = Store(sys.argv[1])
with Lease(store, "theirs").keep_alive() as lease:
    assert Claims(store, lease, "theirs").acquire(make_cell())
    print("claimed", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holding(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that has claimed the cell, until it is killed or its input ends."""
    command = [sys.executable, "-c", HOLDER, str(folder), str(SUPPORT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "claimed\n"
        try:
            yield process
        finally:
            process.kill()


def test_acquire_after_a_killed_process_of_this_machine_succeeds_at_once(tmp_path):
    store = Store(tmp_path)
    with holding(tmp_path) as process:
        heartbeat = leases.read_heartbeat(store, "theirs")
        assert heartbeat.pid == process.pid
        assert not leases.is_dead(heartbeat)
        assert not make_claims(store, "ours").acquire(CELL)
        process.kill()
        process.wait()
        assert leases.is_dead(heartbeat)
        assert make_claims(store, "ours").acquire(CELL)


unreachable = Mock(side_effect=StoreError("out of reach"))


def test_lease_of_a_stopped_process_expires(tmp_path, monkeypatch):
    store, observer, clock = Store(tmp_path), leases.Observer(Store(tmp_path)), Clock()
    with holding(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        monkeypatch.setattr(leases.time, "monotonic", clock)
        assert not observer.expired("theirs")
        clock.now += leases.LEASE_TTL_SECONDS - 1
        assert not observer.expired("theirs")
        # While the store cannot be read, heartbeats cannot be written either: that is no silence.
        with monkeypatch.context() as away, pytest.raises(StoreError):
            away.setattr(observer.store, "read", unreachable)
            observer.expired("theirs")
        clock.now += 2
        assert not observer.expired("theirs")
        clock.now += leases.LEASE_TTL_SECONDS - 1
        assert not observer.expired("theirs")
        clock.now += 2
        assert observer.expired("theirs")
        assert make_claims(store, "ours", expired=("theirs",)).acquire(CELL)
        assert log_kinds(store) == ["claimed", "claimed"]


def test_archive_after_a_process_died_on_another_machine_takes_over(store, monkeypatch):
    _, receipt = finish_cell(store)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(Store, "archive_cell", Mock(side_effect=KeyboardInterrupt))
        # A kill at this point, and on another machine: the lease stays, and the process cannot be looked up.
        killed.setattr(Store, "remove", lambda *_: None)
        killed.setattr(processes, "this_machine", lambda: "elsewhere")
        claims.archive(store, receipt, "dead")
    monkeypatch.setattr(leases, "LEASE_TTL_SECONDS", 0.05)
    monkeypatch.setattr(claims, "POLL_INTERVAL_SECONDS", 0.01)
    assert claims.archive(store, receipt, "next") is not None
    assert store.receipt(CELL) is None


def test_finish_after_a_store_error_can_be_repeated(store, monkeypatch):
    mine = make_claims(store, "a")
    assert mine.acquire(CELL)
    with monkeypatch.context() as broken, pytest.raises(StoreError):
        broken.setattr(store, "create", unreachable)
        mine.finish(make_receipt(CELL))
    assert mine.holds(CELL.cell_id)
    mine.finish(make_receipt(CELL))
    assert log_kinds(store) == ["claimed", "finished"]


def test_observer_after_a_common_suspension_expires_nothing(tmp_path, monkeypatch):
    clock, observer = Clock(), leases.Observer(Store(tmp_path), leases.MAX_CLOCK_GAP_SECONDS)
    lease = Lease(Store(tmp_path), "theirs", hung_after=60)
    lease.record_heartbeat()
    monkeypatch.setattr(leases, "is_dead", lambda heartbeat: heartbeat is None)
    monkeypatch.setattr(leases.time, "monotonic", clock)
    lease.record_progress()
    assert not observer.expired("theirs")
    clock.now += 3600
    assert not observer.expired("theirs")
    # After an hour without progress, the process is not taken for hung either.
    waits = iter([3600.0, leases.HEARTBEAT_SECONDS])

    class Over:
        def wait(self, _: float) -> bool:
            clock.now += next(waits, 0.0)
            return clock.now > 1000 + 2 * 3600 + 1

    before = leases.read_heartbeat(Store(tmp_path), "theirs")
    lease._record_heartbeats(Over())  # type: ignore[arg-type]
    assert leases.read_heartbeat(Store(tmp_path), "theirs") != before
    assert not observer.expired("theirs")
    # A lease without any heartbeats expires nevertheless.
    for _ in range(4):
        clock.now += leases.MAX_CLOCK_GAP_SECONDS
        last = observer.expired("theirs")
    assert last


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_observer_ignores_the_wall_clock(tmp_path, monkeypatch):
    store, observer, clock = Store(tmp_path), leases.Observer(Store(tmp_path)), Clock()
    lease = Lease(store, "one")
    monkeypatch.setattr(leases.time, "monotonic", clock)
    for jump in (0.0, 1e9, -1e9):
        monkeypatch.setattr(leases.time, "time", lambda at=jump: 1.7e9 + at)
        clock.now += leases.LEASE_TTL_SECONDS
        lease.record_heartbeat()
        assert not observer.expired("one")


def test_lease_without_progress_stops_its_heartbeats(tmp_path, monkeypatch):
    store, clock = Store(tmp_path), Clock()
    monkeypatch.setattr(leases.time, "monotonic", clock)
    lease = Lease(store, "one", hung_after=60)
    lease.record_heartbeat()
    first = leases.read_heartbeat(store, "one")
    clock.now += 59
    lease.record_heartbeat()
    second = leases.read_heartbeat(store, "one")
    assert first != second
    clock.now += 2
    lease.record_heartbeat()
    assert leases.read_heartbeat(store, "one") == second
    lease.record_progress()
    lease.record_heartbeat()
    assert leases.read_heartbeat(store, "one") != second


def test_keep_alive_writes_heartbeats_and_removes_the_lease(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.001)
    store = Store(tmp_path)
    third = threading.Event()
    write: Callable[..., None] = store.write

    def counting(data: bytes, *parts: str, durable: bool = True) -> None:
        write(data, *parts, durable=durable)
        if b'"count":3,' in data:
            third.set()

    monkeypatch.setattr(store, "write", counting)
    with Lease(store, "run-1").keep_alive():
        assert third.wait(60)
        assert leases.list_leases(store, "run") == ["run-1"]
        assert leases.list_leases(store, "ru") == []
    assert leases.read_heartbeat(store, "run-1") is None


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["acquire", "finish", "release", "die"])), max_size=30))
def test_claims_in_any_order_finish_a_cell_once_by_its_holder(steps):
    store = Store(f"memory://{uuid.uuid4().hex}/store")
    members = [make_claims(store, f"run-{name}") for name in range(3)]
    holds: int | None = None
    result: int | None = None
    for name, what in steps:
        process = members[name]
        if what == "acquire":
            taken = process.acquire(CELL)
            assert taken == (result is None and holds in (None, name))
            holds = name if taken else holds
        elif what == "finish":
            receipt = make_receipt(CELL, epochs=make_epochs(3), parameters=name)
            if holds == name:
                process.finish(receipt)
                result, holds = name, None
            else:
                with pytest.raises(ClaimLost):
                    process.finish(receipt)
        elif what == "release":
            process.release_all()
            holds = None if holds == name else holds
        else:
            # The lease is removed, and the process continues nevertheless.
            store.remove(leases.FOLDER, f"{process.lease.lease_id}.json")
            if holds == name:
                successor = members[(name + 1) % 3]
                assert successor.acquire(CELL)
                holds = (name + 1) % 3
            process.lease.record_heartbeat()
        written = store.receipt(CELL)
        assert (written.parameters if written is not None else None) == result
