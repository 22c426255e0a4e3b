import errno
import json
import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from cells import STARTED, begin, finish, make_cell, make_distilled, make_epochs, make_receipt, stop
from hypothesis import given
from hypothesis import strategies as st
from paths import SUPPORT

from pld_grid.store import KEPT_CHECKPOINTS, Status, Store, claims, file_store, sha256
from pld_grid.store.claims import Claims
from pld_grid.store.leases import Lease
from pld_grid.util.atomic_files import atomic_create, atomic_write, read_regular
from pld_grid.util.errors import StoreError, StoreFull

CELL, OTHER = make_distilled(), make_cell(seed=1)


def names(store: Store, *parts: str) -> set[str]:
    """Return the names in a folder of a store, read without the store's own methods."""
    path = store.path(*parts)
    paths = store.fs.ls(path, detail=False) if store.fs.exists(path) else []
    return {name.rstrip("/").rsplit("/", 1)[-1] for name in paths}


def damaged(store: Store, cell_id: str) -> list[bytes]:
    """Return the contents of the quarantined files."""
    return [store.read(cell_id, "damaged", name) for name in sorted(names(store, cell_id, "damaged"))]


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "last byte": lambda data: data[:-1],
    "bit flip": flip,
    "zeros": lambda data: bytes(len(data)),
    "twice": lambda data: data + data,
    "not JSON": lambda data: b"\xff\xfe\x00",
    "other JSON": lambda data: b"[1, 2]",
    "no content": lambda data: b'{"sha256": "x"}',
    "deep JSON": lambda data: b"[" * 100_000,
}


def load_epoch(store: Store) -> int:
    """Return the epoch of the checkpoint that a training would continue from."""
    return store.load_checkpoint(CELL)[0].epoch


def test_new_store_is_empty(store):
    assert store.cell_ids() == set()
    assert store.finished([CELL]) == frozenset()
    assert store.receipt(CELL) is None
    assert store.cell(CELL.cell_id) is None
    assert store.record(CELL.cell_id) is None
    assert store.load_checkpoint(CELL) is None
    assert store.mirror(CELL.cell_id) is None
    store.check_writable()
    assert store.cell_ids() == set()
    assert not any("probe" in name for name in names(store))


def test_record_follows_a_cell_from_its_first_epoch_to_its_receipt(store):
    begin(store, CELL, 1)
    assert store.finished([CELL]) == frozenset()
    assert store.cell_ids() == {CELL.cell_id}
    assert store.cell(CELL.cell_id) == CELL
    record = store.record(CELL.cell_id)
    assert (record.state, len(record.epochs), record.receipt) == ("unfinished", 1, None)
    store.write_status(CELL.cell_id, Status(state="failed", reason="out of memory", time=STARTED))
    record = store.record(CELL.cell_id)
    assert (record.state, record.reason, len(record.epochs)) == ("failed", "out of memory", 1)
    store.clear_status(CELL.cell_id)
    store.clear_status(CELL.cell_id)
    begin(store, CELL, 2)
    receipt = finish(store, CELL)
    assert store.receipt(CELL) == store.receipt(CELL.cell_id) == receipt
    assert store.finished([CELL, OTHER]) == {CELL.cell_id}
    assert store.read_weights(CELL) == b"weights"
    # Checkpoints and status are gone.
    assert names(store, CELL.cell_id) == {"cell.json", "receipt.json", "weights.safetensors"}
    record = store.record(CELL.cell_id)
    assert (record.state, record.receipt, record.metrics) == ("finished", receipt, receipt.metrics)


def test_record_of_a_cell_stopped_before_its_first_epoch_has_no_epochs(store):
    stop(store, CELL, "cancelled")
    record = store.record(CELL.cell_id)
    assert (record.state, record.epochs, record.metrics) == ("cancelled", (), {})


def test_diverged_cell_is_finished_and_has_no_weights(store):
    finish(store, CELL, weights=None, state="diverged", reason="loss is NaN in epoch 2")
    assert store.finished([CELL]) == {CELL.cell_id}
    with pytest.raises(StoreError, match=rf"cell {CELL.cell_id} .* is diverged"):
        store.read_weights(CELL)
    with pytest.raises(StoreError, match="has no receipt"):
        store.read_weights(OTHER)


def test_files_of_a_cell_are_plain_json(store):
    receipt = finish(store, CELL)
    written, cell = (json.loads(store.read(CELL.cell_id, name)) for name in ("receipt.json", "cell.json"))
    assert written["content"] == receipt.model_dump(mode="json")
    assert cell["student"]["architecture"] == "mobilenetv4_conv_small"


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_receipt_is_quarantined(store, damage):
    receipt = finish(store, CELL)
    data = store.read(CELL.cell_id, "receipt.json")
    bad = DAMAGE[damage](data)
    store.write(bad, CELL.cell_id, "receipt.json")
    assert store.finished([CELL]) == frozenset()
    assert "receipt.json" not in names(store, CELL.cell_id)
    assert damaged(store, CELL.cell_id) == [bad]
    assert store.receipt(CELL) is None
    # A second damaged receipt does not replace the first.
    store.write_receipt(receipt)
    assert store.receipt(CELL) == receipt
    store.write(bad, CELL.cell_id, "receipt.json")
    assert store.receipt(CELL) is None
    assert damaged(store, CELL.cell_id) == [bad, bad]


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_receipt_with_any_flipped_bit_is_quarantined(place, bit):
    store = Store(f"memory://{uuid.uuid4().hex}")
    store.write_receipt(make_receipt(OTHER))
    data = bytearray(store.read(OTHER.cell_id, "receipt.json"))
    data[place % len(data)] ^= 1 << bit
    store.write(bytes(data), OTHER.cell_id, "receipt.json")
    assert store.receipt(OTHER) is None
    assert damaged(store, OTHER.cell_id) == [bytes(data)]
    store.fs.rm(store.root, recursive=True)


def test_receipt_of_another_cell_is_quarantined(store):
    finish(store, OTHER)
    data = store.read(OTHER.cell_id, "receipt.json")
    store.write(data, CELL.cell_id, "receipt.json")
    assert store.finished([CELL, OTHER]) == {OTHER.cell_id}
    assert damaged(store, CELL.cell_id) == [data]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["000003.pt", "000003.json"])
def test_load_checkpoint_after_damage_returns_the_one_before(store, file, damage):
    for epoch in (1, 2, 3):
        begin(store, CELL, epoch)
    data = store.read(CELL.cell_id, "checkpoints", file)
    bad = DAMAGE[damage](data)
    store.write(bad, CELL.cell_id, "checkpoints", file)
    loaded = store.load_checkpoint(CELL)
    assert loaded[0].epoch == 2
    assert loaded[0].epochs == make_epochs(2)
    assert sha256(loaded[1]) == loaded[0].sha256
    assert bad in damaged(store, CELL.cell_id)
    assert store.load_checkpoint(CELL) == loaded
    begin(store, CELL, 3)
    assert load_epoch(store) == 3


def test_load_checkpoint_without_payload_or_manifest_returns_the_one_before(store):
    begin(store, CELL, 1)
    begin(store, CELL, 2)
    store.remove(CELL.cell_id, "checkpoints", "000002.pt")
    assert load_epoch(store) == 1
    store.write(b"half a save", CELL.cell_id, "checkpoints", "000002.pt")
    assert load_epoch(store) == 1


def test_manifest_of_another_cell_or_epoch_is_quarantined(store):
    begin(store, CELL, 1)
    begin(store, OTHER, 1)
    own, other = (store.read(cell.cell_id, "checkpoints", "000001.json") for cell in (CELL, OTHER))
    store.write(own, CELL.cell_id, "checkpoints", "000009.json")
    assert len(store.record(CELL.cell_id).epochs) == 1
    assert load_epoch(store) == 1
    store.write(other, CELL.cell_id, "checkpoints", "000001.json")
    assert store.record(CELL.cell_id) is store.load_checkpoint(CELL) is None
    assert {own, other} <= set(damaged(store, CELL.cell_id))


def test_load_checkpoint_without_an_intact_one_returns_none(store):
    for epoch in (1, 2):
        begin(store, CELL, epoch)
        store.write(b"", CELL.cell_id, "checkpoints", f"00000{epoch}.pt")
    assert store.load_checkpoint(CELL) is None
    assert len(damaged(store, CELL.cell_id)) == 4


def test_save_checkpoint_removes_old_ones(store):
    for epoch in range(1, 13):
        begin(store, CELL, epoch)
    kept = [f"{12 - i:06d}" for i in range(KEPT_CHECKPOINTS)]
    assert names(store, CELL.cell_id, "checkpoints") == {f"{stem}.{end}" for stem in kept for end in ("json", "pt")}


@pytest.mark.parametrize("damage", ["empty", "truncated", "bit flip"])
def test_read_weights_of_damaged_or_missing_ones_raises(store, damage):
    finish(store, CELL, weights=bytes(range(200)))
    store.write(DAMAGE[damage](bytes(range(200))), CELL.cell_id, "weights.safetensors")
    with pytest.raises(StoreError, match=rf"the weights of cell {CELL.cell_id} are missing or damaged"):
        store.read_weights(CELL)
    store.remove(CELL.cell_id, "weights.safetensors")
    with pytest.raises(StoreError, match="missing or damaged"):
        store.read_weights(CELL)


def test_damaged_cell_status_and_mirror_count_as_missing(store):
    begin(store, CELL, 1)
    store.write(b"{", CELL.cell_id, "cell.json")
    store.write(b"{", CELL.cell_id, "status.json")
    store.write(b"{", CELL.cell_id, "mirror.json")
    assert store.cell(CELL.cell_id) is None
    assert store.mirror(CELL.cell_id) is None
    assert store.record(CELL.cell_id).state == "unfinished"
    store.write(OTHER.model_dump_json().encode(), CELL.cell_id, "cell.json")
    assert store.cell(CELL.cell_id) is None


def test_other_files_in_a_store_are_ignored(store):
    finish(store, CELL)
    for parts in (("README.md",), ("mlflow.db",), ("0123456789abcdeX", "x"), ("0123", "receipt.json")):
        store.write(b"x", *parts)
    assert store.cell_ids() == {CELL.cell_id}
    assert store.finished([CELL]) == {CELL.cell_id}


def test_remove_of_a_missing_path_does_nothing(store):
    store.remove("nothing")
    store.remove(CELL.cell_id, "checkpoints")
    store.write(b"x", "file")
    store.remove("file", "below")
    assert store.read("file") == b"x"


@pytest.mark.parametrize("below", ["", "/below", "/far/below"])
def test_store_at_the_path_of_a_file_raises(tmp_path, below):
    (tmp_path / "file").write_text("x")
    store = Store(f"{tmp_path}/file{below}")
    for use in (
        store.check_writable,
        lambda: store.write_receipt(make_receipt(CELL)),
        lambda: begin(store, CELL, 1),
        store.cell_ids if not below else store.check_writable,
    ):
        with pytest.raises(StoreError) as caught:
            use()
        message = str(caught.value)
        assert message.startswith(f"store {tmp_path}/file{below}: ")
        assert message.isprintable()
        assert "Errno" not in message
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("name", ["receipt.json", "checkpoints/000002.pt", "checkpoints/000002.json"])
def test_folder_in_place_of_a_file_is_quarantined_by_the_next_write(tmp_path, name):
    path, store = tmp_path / CELL.cell_id / name, Store(tmp_path)
    (path / "in it").mkdir(parents=True)
    assert store.receipt(CELL) is None
    begin(store, CELL, 2)
    assert load_epoch(store) == 2
    receipt = finish(store, CELL)
    assert store.receipt(CELL) == receipt
    assert [file.name for file in (tmp_path / CELL.cell_id / "damaged").glob(f"{path.name}-*/*")] == ["in it"]


@pytest.mark.parametrize("folder", ["claims", "checkpoints", "history"])
def test_file_in_place_of_a_folder_is_quarantined(tmp_path, folder):
    store = Store(tmp_path)
    store.write_cell(CELL)
    store.write(b"not a folder", CELL.cell_id, folder)
    claims = Claims(store, Lease(store, "mine"))
    assert claims.acquire(CELL)
    assert store.load_checkpoint(CELL) is None
    store.names(CELL.cell_id, folder)
    (note,) = store.history(CELL.cell_id)
    assert note.text.startswith(f"{folder} cannot be used: it is a file, not a folder; kept as damaged/{folder}-")
    assert damaged(store, CELL.cell_id) == [b"not a folder"]
    begin(store, CELL, 2)
    assert store.load_checkpoint(CELL) is not None
    receipt = make_receipt(CELL, weights_sha256=store.write_weights(CELL.cell_id, b"weights"))
    claims.finish(receipt)
    assert store.receipt(CELL) == receipt


def test_errors_of_object_store_clients_become_store_errors(monkeypatch):
    store = Store(f"memory://{uuid.uuid4().hex}/store")

    class ClientError(Exception):
        """As botocore's: no OSError."""

    for name in ("cat_file", "pipe_file", "ls", "rm", "find"):
        monkeypatch.setattr(store.fs, name, Mock(side_effect=ClientError("no credentials")), raising=False)
    calls: list[Callable[[], object]] = [
        lambda: store.read("x"),
        lambda: store.write(b"", "x"),
        lambda: store.create(b"", "x"),
        store.names,
        lambda: store.remove("x"),
        lambda: store.rename(("x",), ("y",)),
    ]
    for call in calls:
        with pytest.raises(StoreError, match=r"^store memory://.*: no credentials$"):
            call()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace `sleep` by one that returns at once; return the list of pauses."""
    pauses: list[float] = []
    clock = iter(range(10**6))
    monkeypatch.setattr(file_store.time, "sleep", pauses.append)
    monkeypatch.setattr(file_store.time, "monotonic", lambda: float(next(clock)))
    return pauses


@pytest.mark.parametrize("place", ["local", "memory"])
def test_transient_errors_are_retried(place, tmp_path, pauses, monkeypatch, caplog):
    uri = str(tmp_path / "store") if place == "local" else f"memory://{uuid.uuid4().hex}/store"
    store, left = Store(uri, retry_timeout=100), 0

    def fail_at_first(call: Callable[..., Any], after: bool = False) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if after and left:
                # The call succeeds, but its answer is lost.
                call(*arguments, **options)
            if left:
                left -= 1
                raise OSError(errno.ESTALE, "Stale file handle")
            return call(*arguments, **options)

        return wrapped

    for name in ("cat_file", "ls", "rm", "pipe_file", "find"):
        monkeypatch.setattr(store.fs, name, fail_at_first(getattr(store.fs, name)))
    monkeypatch.setattr(file_store, "read_regular", fail_at_first(read_regular))
    monkeypatch.setattr(file_store, "atomic_write", fail_at_first(atomic_write))
    monkeypatch.setattr(file_store, "atomic_create", fail_at_first(atomic_create, after=True))
    monkeypatch.setattr(Path, "rename", fail_at_first(Path.rename))
    calls: list[tuple[Callable[[], object], object]] = [
        (lambda: store.write(b"one", "a", "x"), None),
        (lambda: store.read("a", "x"), b"one"),
        (lambda: store.create(b"two", "a", "y"), True),
        (lambda: store.create(b"three", "a", "y"), False),
        (lambda: store.names("a"), ["x", "y"]),
        (lambda: store.rename(("a", "x"), ("a", "z")), None),
        (lambda: store.remove("a", "z"), None),
    ]
    for call, wanted in calls:
        left = 3
        result = call()
        assert (sorted(result) if isinstance(result, list) else result) == wanted
        assert left == 0
    assert store.names("a") == ["y"]
    assert store.read("a", "y") == b"two"
    assert len(pauses) > 2 * len(calls)
    # There is one warning per call, not one per try.
    warnings = [record for record in caplog.records if "tried again" in record.message]
    assert len(calls) <= len(warnings) < len(pauses) / 2


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), 1),
        (OSError(errno.EROFS, "Read-only file system"), 1),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (ValueError("our own mistake"), 1),
        (TimeoutError("timed out"), 7),
        (OSError(errno.EIO, "Input/output error"), 7),
    ],
)
def test_other_errors_are_raised_at_once(error, tries, pauses, monkeypatch):
    store, put = Store(f"memory://{uuid.uuid4().hex}/store", retry_timeout=10), Mock(side_effect=error)
    monkeypatch.setattr(store.fs, "pipe_file", put)
    with pytest.raises(StoreFull if getattr(error, "errno", None) == errno.ENOSPC else StoreError):
        store.write(b"x", "x")
    assert put.call_count == tries
    # Without a retry timeout, nothing is retried.
    store.retry_timeout = 0
    with pytest.raises(StoreError):
        store.write(b"x", "x")
    assert put.call_count == tries + 1


@pytest.mark.parametrize("what", ["pipe", "huge"])
def test_receipt_that_is_a_pipe_or_too_large_is_quarantined(tmp_path, what):
    store = Store(tmp_path)
    finish(store, CELL)
    path = Path(store.path(CELL.cell_id, "receipt.json"))
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(2**40)
    assert store.receipt(CELL) is None
    assert not path.exists()
    (kept,) = names(store, CELL.cell_id, "damaged")
    assert kept.startswith("receipt.json-")
    (note,) = store.history(CELL.cell_id)
    reason = "it is empty" if what == "pipe" else "it is too large"
    assert note.text == f"receipt.json cannot be used: {reason}; kept as damaged/{kept}"


@pytest.mark.parametrize("uri", ["nosuch://bucket/x", "gs+x://y"])
def test_store_of_an_unknown_protocol_raises(uri):
    with pytest.raises(StoreError, match=r"^store ") as caught:
        Store(uri)
    assert str(caught.value).isprintable()


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from cells import make_cell, make_distilled, make_epochs, make_receipt, STARTED
from pld_grid.store import Manifest, Store, sha256
store, cell, other = Store(sys.argv[1]), make_distilled(), make_cell(seed=1)
print("ready", flush=True)
for epoch in range(1, 10**6):
    payload = bytes([epoch % 256]) * 400_000
    store.save_checkpoint(Manifest(
        cell_id=cell.cell_id, spec_version=cell.spec_version, epoch=epoch, sha256=sha256(payload), parameters=1,
        started=STARTED, epochs=make_epochs(2),
    ), payload)
    checksum = store.write_weights(other.cell_id, payload)
    store.write_receipt(make_receipt(other, reason="x" * (epoch % 5000), weights_sha256=checksum))
    print(epoch, flush=True)
"""


def test_killed_writer_leaves_only_intact_files(tmp_path):
    store, draw = Store(tmp_path / "store"), random.Random(0)
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "store"), str(SUPPORT)], stdout=subprocess.PIPE
        ) as writer:
            written = 0
            # Read while it writes, then kill it in the middle of a write.
            for _ in range(draw.randint(2, 30)):
                line = writer.stdout.readline().strip()
                assert line
                written = 0 if line == b"ready" else int(line)
                if written:
                    assert store.receipt(OTHER) is not None
                    weights = store.read(OTHER.cell_id, "weights.safetensors")
                    assert (len(weights), len(set(weights))) == (400_000, 1)
            for _ in range(draw.randint(0, 2000)):
                pass
            writer.send_signal(signal.SIGKILL)
        assert writer.returncode == -signal.SIGKILL
        assert store.receipt(OTHER) is not None
        loaded = store.load_checkpoint(CELL)
        assert loaded[0].epoch >= written
        assert loaded[1] == bytes([loaded[0].epoch % 256]) * 400_000
        assert not damaged(store, CELL.cell_id)
        assert not damaged(store, OTHER.cell_id)
        store.remove(CELL.cell_id)


TIME, EPOCH = 1e300, make_epochs(1)[0]
OUT_OF_BOUNDS: dict[str, dict[str, Any]] = {
    "parameters": {"parameters": 10**400},
    "negative parameters": {"parameters": -1},
    "metrics": {"metrics": {"top1": 1e308}},
    "epoch": {"epochs": (EPOCH.model_copy(update={"epoch": 10**400}),)},
    "time of an epoch": {"epochs": (EPOCH.model_copy(update={"time": TIME}),)},
    "metrics of an epoch": {"epochs": (EPOCH.model_copy(update={"metrics": {"top1": -1e308}}),)},
    **{
        f"{key} of the provenance": {"provenance": make_receipt(CELL).provenance.model_copy(update={key: value})}
        for key, value in {"started": -TIME, "ended": TIME, "threads": 10**400, "devices": -1}.items()
    },
}


@pytest.mark.parametrize("what", OUT_OF_BOUNDS)
def test_receipt_with_numbers_out_of_bounds_counts_as_another_versions(store, what):
    receipt = make_receipt(CELL)
    store.write_model(receipt, CELL.cell_id, "receipt.json")
    assert store.receipt(CELL) == receipt
    store.write_model(receipt.model_copy(update=OUT_OF_BOUNDS[what]), CELL.cell_id, "receipt.json")
    assert store.receipt(CELL) is None
    assert store.record(CELL.cell_id) is None
    with pytest.raises(StoreError, match="has a receipt of another version of pld_grid"):
        store.check_receipt(CELL)
    assert "receipt.json" in names(store, CELL.cell_id)


def test_files_with_times_out_of_bounds_count_as_missing(store):
    begin(store, CELL, 1)
    store.note(CELL.cell_id, "its worker died")
    (note,) = store.history(CELL.cell_id)
    status, entry = Status(state="failed", time=STARTED), claims.Entry(kind="claimed", run="", lease="x", time=STARTED)
    for kept, *place in ((status, "status.json"), (note, "history", "9.json"), (entry, "claims", "000001.json")):
        store.write_model(kept.model_copy(update={"time": TIME}), CELL.cell_id, *place)
    assert store.record(CELL.cell_id).state == "unfinished"
    assert store.history(CELL.cell_id) == [note]
    assert claims.read_log(store, CELL.cell_id) == []


def test_receipt_with_the_largest_numbers_is_read(store):
    epoch = EPOCH.model_copy(update={"epoch": 100_000, "time": 1e11, "metrics": {"top1": 1e100, "top5": -1e100}})
    receipt = make_receipt(CELL, parameters=2**53, epochs=(epoch,))
    store.write_receipt(receipt)
    assert store.receipt(CELL) == receipt
