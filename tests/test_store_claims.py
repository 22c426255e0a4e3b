"""Who trains a cell: real processes that race, die, stop and come back."""

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

import pytest
from cells import finish, make_cell, make_epochs, make_receipt
from hypothesis import given
from hypothesis import strategies as st

from pld_grid import processes
from pld_grid.errors import StoreError
from pld_grid.store import Store, claims, leases
from pld_grid.store.claims import ClaimLost, Claims
from pld_grid.store.leases import Lease

CELL = make_cell()
FORK = multiprocessing.get_context("fork")


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path / "store" if request.param == "local" else f"memory://{uuid.uuid4().hex}/store")


def claimant(store: Store, run: str, lapsed: tuple[str, ...] = ()) -> Claims:
    """A process of a run, with a lease that beats once."""
    lease = Lease(store, f"{run}-{uuid.uuid4().hex[:6]}")
    lease.beat()
    return Claims(store, lease, run, lapsed)


def numbers(store: Store) -> list[str]:
    return [entry.kind for entry in claims.entries(store, CELL.cell_id)]


def test_one_trains_a_cell_and_the_other_waits(store: Store) -> None:
    first, second = claimant(store, "a"), claimant(store, "b")
    assert first.take(CELL)
    assert first.take(CELL)
    assert not second.take(CELL)
    assert first.holds(CELL.cell_id)
    held = claims.holder(store, CELL.cell_id)
    assert held is not None
    assert (held.run, held.lease) == ("a", first.lease.lease_id)
    receipt = make_receipt(CELL)
    first.finish(receipt)
    assert store.receipt(CELL) == receipt
    assert claims.holder(store, CELL.cell_id) is None
    assert not second.take(CELL)
    assert numbers(store) == ["claimed", "finished"]


def test_what_is_released_or_whose_process_said_goodbye_is_free(store: Store) -> None:
    first, second, third = (claimant(store, run) for run in "abc")
    assert first.take(CELL)
    first.release_all()
    assert second.take(CELL)
    store.remove(leases.FOLDER, f"{second.lease.lease_id}.json")
    assert third.take(CELL)
    assert numbers(store) == ["claimed", "released", "claimed", "claimed"]


def test_who_lost_a_cell_can_neither_finish_nor_release_it(store: Store) -> None:
    first = claimant(store, "a")
    assert first.take(CELL)
    second = claimant(store, "b", lapsed=(first.lease.lease_id,))
    assert second.take(CELL)
    assert not first.holds(CELL.cell_id)
    with pytest.raises(ClaimLost):
        first.finish(make_receipt(CELL, parameters=1))
    assert store.receipt(CELL) is None
    first.release_all()
    assert second.holds(CELL.cell_id)
    second.finish(make_receipt(CELL, parameters=2))
    receipt = store.receipt(CELL)
    assert receipt is not None
    assert receipt.parameters == 2
    with pytest.raises(ClaimLost):
        first.finish(make_receipt(CELL, parameters=1))


def test_a_run_takes_over_from_its_own_dead_workers_at_once(store: Store) -> None:
    first, again, alone = claimant(store, "a"), claimant(store, "a"), claimant(store, "")
    assert first.take(CELL)
    assert again.take(CELL)
    assert not first.holds(CELL.cell_id)
    # Without a name, nobody is the same.
    assert not alone.take(CELL)
    other = claimant(store, "", lapsed=(again.lease.lease_id,))
    assert other.take(CELL)
    assert not claimant(store, "").take(CELL)


def test_a_driver_ends_the_claims_of_its_own_run_alone(store: Store) -> None:
    assert claims.leave(store, CELL.cell_id, "a")
    mine = claimant(store, "a")
    assert mine.take(CELL)
    assert not claims.leave(store, CELL.cell_id, "b")
    assert claims.leave(store, CELL.cell_id, "a")
    assert claims.leave(store, CELL.cell_id, "b")
    other = claimant(store, "b")
    assert other.take(CELL)
    other.finish(make_receipt(CELL))
    assert not claims.leave(store, CELL.cell_id, "b")
    assert numbers(store) == ["claimed", "released", "claimed", "finished"]


@pytest.mark.parametrize("how", ["lapsed", "gone"])
def test_the_claim_of_a_dead_process_of_any_run_is_ended(store: Store, how: str) -> None:
    other = claimant(store, "b")
    assert other.take(CELL)
    if how == "gone":
        store.remove(leases.FOLDER, f"{other.lease.lease_id}.json")
    assert claims.leave(store, CELL.cell_id, "a", (other.lease.lease_id,) if how == "lapsed" else ())
    assert numbers(store) == ["claimed", "released"]
    with pytest.raises(ClaimLost):
        other.finish(make_receipt(CELL))


def test_of_two_who_set_a_cell_aside_at_once_the_second_leaves_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = claimant(store, "a")
    assert first.take(CELL)
    receipt = make_receipt(CELL)
    first.finish(receipt)
    move, seconds = Store.set_cell_aside, []
    looks = threading.Semaphore(0)
    second = threading.Thread(target=lambda: seconds.append(claims.set_aside(store, receipt, "second")))

    def slow(this: Store, cell_id: str) -> str:
        second.start()
        # It waits for the first one, so that it finds no half of a result.
        assert looks.acquire(timeout=60)
        assert looks.acquire(timeout=60)
        assert seconds == []
        return move(this, cell_id)

    monkeypatch.setattr(Store, "set_cell_aside", slow)
    monkeypatch.setattr(claims.time, "sleep", lambda _: looks.release())
    assert claims.set_aside(store, receipt, "first") is not None
    second.join()
    assert seconds == [None]
    monkeypatch.undo()
    # One who died before it moved anything is followed.
    again = claimant(store, "c")
    assert again.take(CELL)
    again.finish(receipt)
    monkeypatch.setattr(Store, "set_cell_aside", lambda *_: None)
    claims.set_aside(store, receipt, "dead")
    monkeypatch.undo()
    assert claims.set_aside(store, receipt, "next") is not None


def test_on_an_object_store_a_result_that_is_being_set_aside_is_seen_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"memory://{uuid.uuid4().hex}/store")
    mine, seen = claimant(store, "a"), list[bool]()
    assert mine.take(CELL)
    store.write_cell(CELL)
    receipt = make_receipt(CELL, weights_sha256=store.write_weights(CELL.cell_id, b"weights"))
    mine.finish(receipt)
    remove = store.fs.rm_file

    def watched(path: str) -> None:
        _, last = claims.newest(store, CELL.cell_id)
        seen.append(store.receipt(CELL) is None or (last is not None and last.kind == "replaced"))
        remove(path)

    with monkeypatch.context() as watching:
        watching.setattr(store.fs, "rm_file", watched)
        kept = claims.set_aside(store, receipt, "b")
    assert kept is not None
    # The cell, its three claims, its receipt and its weights.
    assert len(seen) >= 6
    assert all(seen)
    assert store.receipt(CELL) is None
    assert numbers(store) == []


def test_who_adds_to_a_log_just_when_that_is_set_aside_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    mine = claimant(store, "a")
    assert mine.take(CELL)
    receipt = make_receipt(CELL)
    mine.finish(receipt)
    create = store.create

    def late(data: bytes, *parts: str) -> bool:
        store.set_cell_aside(CELL.cell_id)
        return create(data, *parts)

    with monkeypatch.context() as racing:
        racing.setattr(store, "create", late)
        assert claims.set_aside(store, receipt, "second") is None
    assert numbers(store) == []
    assert len([name for name in store.names() if name.startswith(f"{CELL.cell_id}.replaced-")]) == 1
    assert claimant(store, "c").take(CELL)


def test_weights_that_get_their_final_name_meanwhile_are_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = make_receipt(CELL, weights_sha256=store.write_weights(CELL.cell_id, b"weights"))
    read = store.read

    def looks(*parts: str) -> bytes | None:
        found = read(*parts)
        if parts[-1] == "weights.safetensors" and found is None:
            store.write_receipt(receipt)
        return found

    monkeypatch.setattr(store, "read", looks)
    assert store.has_weights(receipt)


def test_a_sign_of_life_that_cannot_be_given_once_is_given_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, failures = Store(tmp_path), [OSError(24, "Too many open files"), MemoryError()]
    beat, again = Lease.beat, threading.Event()

    def beats(lease: Lease) -> None:
        if threading.current_thread().name == "pld_grid-lease" and failures:
            raise failures.pop()
        beat(lease)
        if not failures:
            again.set()

    monkeypatch.setattr(leases, "BEAT", 0.01)
    monkeypatch.setattr(Lease, "beat", beats)
    with Lease(store, "mine").held():
        assert again.wait(60)
    # Told once.
    assert [record.message for record in caplog.records] == ["MemoryError; others may take this process for dead"]


def test_a_receipt_that_was_lost_or_damaged_comes_back_from_the_log(store: Store) -> None:
    mine = claimant(store, "a")
    assert mine.take(CELL)
    receipt = make_receipt(CELL, weights_sha256=store.write_weights(CELL.cell_id, b"weights"))
    mine.finish(receipt)
    for damage in (b"", b"{}", None):
        store.remove(CELL.cell_id, "receipt.json")
        if damage is not None:
            store.write(damage, CELL.cell_id, "receipt.json")
        assert store.receipt(CELL) is None
        assert not claimant(store, "b").take(CELL)
        assert store.receipt(CELL) == receipt
    assert len(store.names(CELL.cell_id, "damaged")) == 2
    assert [note.text.split(";")[0] for note in store.history(CELL.cell_id)] == [
        "receipt.json cannot be used: it is empty", "receipt.json cannot be used: its checksum is wrong",
    ]  # fmt: skip


def test_a_result_without_its_weights_is_made_again(store: Store) -> None:
    mine = claimant(store, "a")
    assert mine.take(CELL)
    mine.finish(make_receipt(CELL, weights_sha256=store.write_weights(CELL.cell_id, b"weights")))
    store.write(b"weight", CELL.cell_id, "weights.safetensors")
    store.check_weights(CELL)
    assert store.receipt(CELL) is None
    assert claimant(store, "b").take(CELL)


def test_weights_of_who_lost_the_cell_replace_nothing(store: Store) -> None:
    first = claimant(store, "a")
    assert first.take(CELL)
    late = make_receipt(CELL, weights_sha256=store.write_weights(CELL.cell_id, b"theirs"))
    second = claimant(store, "b", lapsed=(first.lease.lease_id,))
    assert second.take(CELL)
    receipt = make_receipt(CELL, weights_sha256=store.write_weights(CELL.cell_id, b"ours"))
    second.finish(receipt)
    with pytest.raises(ClaimLost):
        first.finish(late)
    store.write_weights(CELL.cell_id, b"theirs")
    assert store.weights_of(CELL) == b"ours"


def test_between_the_log_and_the_receipt_nothing_can_be_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = claimant(store, "a")
    assert mine.take(CELL)
    receipt = make_receipt(CELL, weights_sha256=store.write_weights(CELL.cell_id, b"weights"))
    # As if it was killed there.
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(store, "write_receipt", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        mine.finish(receipt)
    assert store.receipt(CELL) is None
    assert not claimant(store, "b").take(CELL)
    assert store.receipt(CELL) == receipt
    assert store.weights_of(CELL) == b"weights"


def test_of_two_who_set_a_cell_aside_one_does(store: Store) -> None:
    mine = claimant(store, "a")
    assert mine.take(CELL)
    receipt = make_receipt(CELL)
    mine.finish(receipt)
    kept = claims.set_aside(store, receipt, "b")
    assert kept is not None
    assert claims.set_aside(store, receipt, "c") is None
    again = claimant(store, "c")
    assert again.take(CELL)
    # Its claim has the same number in the new log as the first one's had in the old.
    assert not mine.holds(CELL.cell_id)
    mine._held.add(CELL.cell_id)
    assert not mine.holds(CELL.cell_id)
    with pytest.raises(ClaimLost):
        mine.finish(receipt)
    assert again.holds(CELL.cell_id)


def test_a_receipt_of_a_later_version_is_never_replaced(store: Store) -> None:
    finish(store, CELL)
    body = make_receipt(CELL).canonical[:-1].encode() + b',"zeal":1}'
    from pld_grid.store import sha256

    text = b'{"sha256":"%s","content":%s}\n' % (sha256(body).encode(), body)
    store.write(text, CELL.cell_id, "receipt.json")
    with pytest.raises(StoreError, match="has a receipt of another version of pld_grid"):
        claimant(store, "a").take(CELL)
    assert store.read(CELL.cell_id, "receipt.json") == text


def test_a_damaged_entry_is_nobodys(store: Store) -> None:
    first, second = claimant(store, "a"), claimant(store, "b")
    assert first.take(CELL)
    store.write(b"", CELL.cell_id, claims.CLAIMS, "000001.json")
    assert second.take(CELL)
    with pytest.raises(ClaimLost):
        first.finish(make_receipt(CELL))


# -- processes ---------------------------------------------------------------------------------------------------------


def _race(uri: str, name: int, start: "multiprocessing.synchronize.Barrier", won: "multiprocessing.Queue[int]") -> None:
    store = Store(uri)
    mine = claimant(store, f"run-{name}")
    start.wait()
    taken = mine.take(CELL)
    # A winner that is gone would be followed.
    start.wait()
    if taken:
        won.put(name)


def test_of_sixteen_processes_one_gets_the_cell(tmp_path: Path) -> None:
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
        held = claims.holder(Store(uri), CELL.cell_id)
        assert held is not None
        assert held.run == f"run-{winner}"


HOLDER = """
import sys
sys.path.insert(0, sys.argv[2])
from cells import make_cell
from pld_grid.store import Store
from pld_grid.store.claims import Claims
from pld_grid.store.leases import Lease
store = Store(sys.argv[1])
with Lease(store, "theirs").held() as lease:
    assert Claims(store, lease, "theirs").take(make_cell())
    print("claimed", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holding(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that has claimed the cell, until it is killed or its input ends."""
    command = [sys.executable, "-c", HOLDER, str(folder), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_killed_process_of_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with holding(tmp_path) as process:
        beat = leases.read(store, "theirs")
        assert beat is not None
        assert beat.pid == process.pid
        assert not leases.gone(beat)
        assert not claimant(store, "ours").take(CELL)
        process.kill()
        process.wait()
        assert leases.gone(beat)
        assert claimant(store, "ours").take(CELL)


def test_another_process_of_the_same_number_is_not_taken_for_a_dead_one(tmp_path: Path) -> None:
    with holding(tmp_path):
        beat = leases.read(Store(tmp_path), "theirs")
        assert beat is not None
        other = beat.model_copy(update={"born": beat.born - 1})
        assert leases.gone(other)
        assert not leases.gone(beat.model_copy(update={"machine": "elsewhere", "born": 0}))
        # And would not be killed.
        assert other.process.end()
        assert not leases.gone(beat)
        assert not beat.model_copy(update={"machine": "elsewhere"}).process.end()
        assert beat.process.end()


def unreachable(*_: str) -> None:
    raise StoreError("out of reach")


def test_a_stopped_process_lapses_and_finds_its_cell_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, observer, clock = Store(tmp_path), leases.Observer(Store(tmp_path)), Clock()
    with holding(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        monkeypatch.setattr(leases.time, "monotonic", clock)
        assert not observer.lapsed("theirs")
        clock.now += leases.LAPSED - 1
        assert not observer.lapsed("theirs")
        # While the store cannot be read, nobody can give a sign of life: that is no silence.
        with monkeypatch.context() as away, pytest.raises(StoreError):
            away.setattr(observer.store, "read", unreachable)
            observer.lapsed("theirs")
        clock.now += 2
        assert not observer.lapsed("theirs")
        clock.now += leases.LAPSED - 1
        assert not observer.lapsed("theirs")
        clock.now += 2
        assert observer.lapsed("theirs")
        assert claimant(store, "ours", lapsed=("theirs",)).take(CELL)
        assert numbers(store) == ["claimed", "claimed"]


def test_who_died_elsewhere_while_setting_a_cell_aside_is_followed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = claimant(store, "a")
    assert mine.take(CELL)
    receipt = make_receipt(CELL)
    mine.finish(receipt)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(Store, "set_cell_aside", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        # As if it was killed there, and on another machine: its lease stays, and nobody here can tell.
        killed.setattr(Store, "remove", lambda *_: None)
        killed.setattr(processes, "this_machine", lambda: "elsewhere")
        claims.set_aside(store, receipt, "dead")
    monkeypatch.setattr(leases, "LAPSED", 0.05)
    monkeypatch.setattr(claims, "LOOK", 0.01)
    assert claims.set_aside(store, receipt, "next") is not None
    assert store.receipt(CELL) is None


def test_who_cannot_finish_a_cell_still_has_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = claimant(store, "a")
    assert mine.take(CELL)
    with monkeypatch.context() as broken, pytest.raises(StoreError):
        broken.setattr(store, "create", unreachable)
        mine.finish(make_receipt(CELL))
    assert mine.holds(CELL.cell_id)
    mine.finish(make_receipt(CELL))
    assert numbers(store) == ["claimed", "finished"]


def test_who_was_frozen_together_with_others_takes_nobody_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, observer = Clock(), leases.Observer(Store(tmp_path), leases.FROZEN)
    lease = Lease(Store(tmp_path), "theirs", hung_after=60)
    lease.beat()
    monkeypatch.setattr(leases, "gone", lambda beat: beat is None)
    monkeypatch.setattr(leases.time, "monotonic", clock)
    lease.progress()
    assert not observer.lapsed("theirs")
    clock.now += 3600
    assert not observer.lapsed("theirs")
    # The process itself has trained nothing for an hour, and is no more hung than it was.
    waits = iter([3600.0, leases.BEAT])

    class Over:
        def wait(self, _: float) -> bool:
            clock.now += next(waits, 0.0)
            return clock.now > 1000 + 2 * 3600 + 1

    before = leases.read(Store(tmp_path), "theirs")
    lease._go_on(Over())  # type: ignore[arg-type]
    assert leases.read(Store(tmp_path), "theirs") != before
    assert not observer.lapsed("theirs")
    # Who does not beat at all is noticed all the same.
    for _ in range(4):
        clock.now += leases.FROZEN
        last = observer.lapsed("theirs")
    assert last


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_clock_that_jumps_lapses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, observer, clock = Store(tmp_path), leases.Observer(Store(tmp_path)), Clock()
    lease = Lease(store, "one")
    monkeypatch.setattr(leases.time, "monotonic", clock)
    for jump in (0.0, 1e9, -1e9):
        monkeypatch.setattr(leases.time, "time", lambda at=jump: 1.7e9 + at)
        clock.now += leases.LAPSED
        lease.beat()
        assert not observer.lapsed("one")


def test_who_hangs_gives_no_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, clock = Store(tmp_path), Clock()
    monkeypatch.setattr(leases.time, "monotonic", clock)
    lease = Lease(store, "one", hung_after=60)
    lease.beat()
    first = leases.read(store, "one")
    clock.now += 59
    lease.beat()
    second = leases.read(store, "one")
    assert first != second
    clock.now += 2
    lease.beat()
    assert leases.read(store, "one") == second
    lease.progress()
    lease.beat()
    assert leases.read(store, "one") != second


def test_a_lease_beats_by_itself_and_goes_with_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.001)
    store = Store(tmp_path)
    third = threading.Event()
    write: Callable[..., None] = store.write

    def counting(data: bytes, *parts: str, durable: bool = True) -> None:
        write(data, *parts, durable=durable)
        if b'"count":3,' in data:
            third.set()

    monkeypatch.setattr(store, "write", counting)
    with Lease(store, "run-1").held():
        assert third.wait(60)
        assert leases.of_run(store, "run") == ["run-1"]
        assert leases.of_run(store, "ru") == []
    assert leases.read(store, "run-1") is None


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["take", "finish", "release", "die"])), max_size=30))
def test_whatever_happens_a_cell_is_finished_once_by_who_holds_it(steps: list[tuple[int, str]]) -> None:
    store = Store(f"memory://{uuid.uuid4().hex}/store")
    people = [claimant(store, f"run-{name}") for name in range(3)]
    holds: int | None = None
    result: int | None = None
    for name, what in steps:
        person = people[name]
        if what == "take":
            taken = person.take(CELL)
            assert taken == (result is None and holds in (None, name))
            holds = name if taken else holds
        elif what == "finish":
            receipt = make_receipt(CELL, epochs=make_epochs(3), parameters=name)
            if holds == name:
                person.finish(receipt)
                result, holds = name, None
            else:
                with pytest.raises(ClaimLost):
                    person.finish(receipt)
        elif what == "release":
            person.release_all()
            holds = None if holds == name else holds
        else:
            # It said goodbye, but goes on all the same, under another name from now on.
            store.remove(leases.FOLDER, f"{person.lease.lease_id}.json")
            if holds == name:
                successor = people[(name + 1) % 3]
                assert successor.take(CELL)
                holds = (name + 1) % 3
            person.lease.beat()
        written = store.receipt(CELL)
        assert (written.parameters if written is not None else None) == result
