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

import pytest
from cells import STARTED, begin, finish, make_cell, make_distilled, make_epochs, make_receipt, stop
from hypothesis import given
from hypothesis import strategies as st

from pld_grid.errors import StoreError, StoreFull
from pld_grid.files import create_whole, read_regular, write_whole
from pld_grid.store import KEPT_CHECKPOINTS, Manifest, Mirror, Status, Store, claims, files, sha256
from pld_grid.store.claims import Claims
from pld_grid.store.leases import Lease

CELL, OTHER = make_distilled(), make_cell(seed=1)


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path / "store" if request.param == "local" else f"memory://{uuid.uuid4().hex}/store")


def names(store: Store, *parts: str) -> set[str]:
    """What lies in a folder of a store."""
    path = store.path(*parts)
    found = store.fs.ls(path, detail=False) if store.fs.exists(path) else []
    return {name.rstrip("/").rsplit("/", 1)[-1] for name in found}


def damaged(store: Store, cell_id: str) -> list[bytes]:
    """The contents of the files that were set aside."""
    kept = [store.read(cell_id, "damaged", name) for name in sorted(names(store, cell_id, "damaged"))]
    return [data for data in kept if data is not None]


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


def test_a_new_store_is_empty(store: Store) -> None:
    assert store.cell_ids() == set()
    assert store.finished([CELL]) == frozenset()
    assert store.receipt(CELL) is None
    assert store.cell(CELL.cell_id) is None
    assert store.progress(CELL.cell_id) is None
    assert store.load_checkpoint(CELL) is None
    assert store.mirror(CELL.cell_id) is None
    store.check_writable()
    assert store.cell_ids() == set()
    assert not any("probe" in name for name in names(store))


def test_a_cell_from_start_to_end(store: Store) -> None:
    begin(store, CELL, 1)
    assert store.finished([CELL]) == frozenset()
    assert store.cell_ids() == {CELL.cell_id}
    assert store.cell(CELL.cell_id) == CELL
    progress = store.progress(CELL.cell_id)
    assert progress is not None
    assert (progress.state, len(progress.epochs), progress.receipt) == ("unfinished", 1, None)
    store.write_status(CELL.cell_id, Status(state="failed", reason="out of memory", time=STARTED))
    progress = store.progress(CELL.cell_id)
    assert progress is not None
    assert (progress.state, progress.reason, len(progress.epochs)) == ("failed", "out of memory", 1)
    store.clear_status(CELL.cell_id)
    store.clear_status(CELL.cell_id)
    begin(store, CELL, 2)
    receipt = finish(store, CELL)
    assert store.receipt(CELL) == store.receipt(CELL.cell_id) == receipt
    assert store.finished([CELL, OTHER]) == {CELL.cell_id}
    assert store.weights_of(CELL) == b"weights"
    # Nothing is left that a finished cell does not need.
    assert names(store, CELL.cell_id) == {"cell.json", "receipt.json", "weights.safetensors"}
    progress = store.progress(CELL.cell_id)
    assert progress is not None
    assert (progress.state, progress.receipt, progress.metrics) == ("finished", receipt, receipt.metrics)


def test_stopped_before_the_first_epoch(store: Store) -> None:
    stop(store, CELL, "cancelled")
    progress = store.progress(CELL.cell_id)
    assert progress is not None
    assert (progress.state, progress.epochs, progress.metrics) == ("cancelled", (), {})


def test_diverged_is_a_result(store: Store) -> None:
    finish(store, CELL, weights=None, state="diverged", reason="loss is NaN in epoch 2")
    assert store.finished([CELL]) == {CELL.cell_id}
    with pytest.raises(StoreError, match=rf"cell {CELL.cell_id} .* is diverged"):
        store.weights_of(CELL)
    with pytest.raises(StoreError, match="has no receipt"):
        store.weights_of(OTHER)


def test_mirror(store: Store) -> None:
    mirror = Mirror(tracking_uri="sqlite:///x", run_id="r", epochs=2, state="unfinished")
    store.write_mirror(CELL.cell_id, mirror)
    assert store.mirror(CELL.cell_id) == mirror
    store.write_mirror(CELL.cell_id, mirror.model_copy(update={"epochs": 3}))
    assert store.mirror(CELL.cell_id) == mirror.model_copy(update={"epochs": 3})


def test_the_store_is_readable_by_people(store: Store) -> None:
    receipt = finish(store, CELL)
    data = store.read(CELL.cell_id, "receipt.json")
    assert data is not None
    assert json.loads(data)["content"] == receipt.model_dump(mode="json")
    assert (
        json.loads(store.read(CELL.cell_id, "cell.json") or b"")["student"]["architecture"] == "mobilenetv4_conv_small"
    )


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_receipts_are_set_aside(store: Store, damage: str) -> None:
    receipt = finish(store, CELL)
    data = store.read(CELL.cell_id, "receipt.json")
    assert data is not None
    bad = DAMAGE[damage](data)
    store.write(bad, CELL.cell_id, "receipt.json")
    assert store.finished([CELL]) == frozenset()
    assert "receipt.json" not in names(store, CELL.cell_id)
    assert damaged(store, CELL.cell_id) == [bad]
    assert store.receipt(CELL) is None
    # It is trained again, and damaged again: both are kept.
    store.write_receipt(receipt)
    assert store.receipt(CELL) == receipt
    store.write(bad, CELL.cell_id, "receipt.json")
    assert store.receipt(CELL) is None
    assert damaged(store, CELL.cell_id) == [bad, bad]


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_any_flipped_bit_is_noticed(place: int, bit: int) -> None:
    store = Store(f"memory://{uuid.uuid4().hex}")
    store.write_receipt(make_receipt(OTHER))
    data = bytearray(store.read(OTHER.cell_id, "receipt.json") or b"")
    data[place % len(data)] ^= 1 << bit
    store.write(bytes(data), OTHER.cell_id, "receipt.json")
    assert store.receipt(OTHER) is None
    assert damaged(store, OTHER.cell_id) == [bytes(data)]
    store.fs.rm(store.root, recursive=True)


def test_the_receipt_of_another_cell_does_not_count(store: Store) -> None:
    finish(store, OTHER)
    data = store.read(OTHER.cell_id, "receipt.json") or b""
    store.write(data, CELL.cell_id, "receipt.json")
    assert store.finished([CELL, OTHER]) == {OTHER.cell_id}
    assert damaged(store, CELL.cell_id) == [data]


def test_a_receipt_of_another_version_stays(store: Store) -> None:
    content = {**make_receipt(CELL).model_dump(mode="json"), "colour": "red"}
    body = json.dumps(content, sort_keys=True, separators=(",", ":"))
    text = f'{{"sha256":"{sha256(body.encode())}","content":{body}}}\n'.encode()
    store.write(text, CELL.cell_id, "receipt.json")
    assert store.receipt(CELL) is None
    assert store.read(CELL.cell_id, "receipt.json") == text


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["000003.pt", "000003.json"])
def test_damaged_checkpoints_cost_one_interval(store: Store, file: str, damage: str) -> None:
    for epoch in (1, 2, 3):
        begin(store, CELL, epoch)
    data = store.read(CELL.cell_id, "checkpoints", file)
    assert data is not None
    bad = DAMAGE[damage](data)
    store.write(bad, CELL.cell_id, "checkpoints", file)
    loaded = store.load_checkpoint(CELL)
    assert loaded is not None
    assert loaded[0].epoch == 2
    assert loaded[0].epochs == make_epochs(2)
    assert sha256(loaded[1]) == loaded[0].sha256
    assert bad in damaged(store, CELL.cell_id)
    assert store.load_checkpoint(CELL) == loaded
    begin(store, CELL, 3)
    again = store.load_checkpoint(CELL)
    assert again is not None
    assert again[0].epoch == 3


def test_a_missing_payload_costs_one_interval(store: Store) -> None:
    begin(store, CELL, 1)
    begin(store, CELL, 2)
    store.remove(CELL.cell_id, "checkpoints", "000002.pt")
    loaded = store.load_checkpoint(CELL)
    assert loaded is not None
    assert loaded[0].epoch == 1


def test_a_payload_without_manifest_does_not_count(store: Store) -> None:
    begin(store, CELL, 1)
    store.write(b"half a save", CELL.cell_id, "checkpoints", "000002.pt")
    loaded = store.load_checkpoint(CELL)
    assert loaded is not None
    assert loaded[0].epoch == 1


@pytest.mark.parametrize("name", ["000001.json", "000009.json"])
def test_checkpoints_of_others_do_not_count(store: Store, name: str) -> None:
    """Another cell's, or one that is not where its manifest says."""
    begin(store, CELL, 1)
    begin(store, OTHER, 1)
    source = OTHER if name == "000001.json" else CELL
    copied = store.read(source.cell_id, "checkpoints", "000001.json") or b""
    store.write(copied, CELL.cell_id, "checkpoints", name)
    progress = store.progress(CELL.cell_id)
    loaded = store.load_checkpoint(CELL)
    if source == OTHER:
        assert (progress, loaded) == (None, None)
    else:
        assert progress is not None
        assert len(progress.epochs) == 1
        assert loaded is not None
        assert loaded[0].epoch == 1
    assert copied in damaged(store, CELL.cell_id)


def test_no_whole_checkpoint_is_a_fresh_start(store: Store) -> None:
    for epoch in (1, 2):
        begin(store, CELL, epoch)
        store.write(b"", CELL.cell_id, "checkpoints", f"00000{epoch}.pt")
    assert store.load_checkpoint(CELL) is None
    assert len(damaged(store, CELL.cell_id)) == 4


def test_old_checkpoints_go(store: Store) -> None:
    for epoch in range(1, 13):
        begin(store, CELL, epoch)
    kept = [f"{12 - i:06d}" for i in range(KEPT_CHECKPOINTS)]
    assert names(store, CELL.cell_id, "checkpoints") == {f"{stem}.{end}" for stem in kept for end in ("json", "pt")}


@pytest.mark.parametrize("damage", ["empty", "truncated", "bit flip"])
def test_damaged_weights(store: Store, damage: str) -> None:
    finish(store, CELL, weights=bytes(range(200)))
    store.write(DAMAGE[damage](bytes(range(200))), CELL.cell_id, "weights.safetensors")
    with pytest.raises(StoreError, match=rf"the weights of cell {CELL.cell_id} are missing or damaged"):
        store.weights_of(CELL)
    store.remove(CELL.cell_id, "weights.safetensors")
    with pytest.raises(StoreError, match="missing or damaged"):
        store.weights_of(CELL)


def test_damaged_cells_statuses_and_mirrors_count_as_absent(store: Store) -> None:
    begin(store, CELL, 1)
    store.write(b"{", CELL.cell_id, "cell.json")
    store.write(b"{", CELL.cell_id, "status.json")
    store.write(b"{", CELL.cell_id, "mirror.json")
    assert store.cell(CELL.cell_id) is None
    assert store.mirror(CELL.cell_id) is None
    progress = store.progress(CELL.cell_id)
    assert progress is not None
    assert progress.state == "unfinished"
    store.write(OTHER.model_dump_json().encode(), CELL.cell_id, "cell.json")
    assert store.cell(CELL.cell_id) is None


def test_strangers_in_the_store_are_left_alone(store: Store) -> None:
    finish(store, CELL)
    for parts in (("README.md",), ("mlflow.db",), ("0123456789abcdeX", "x"), ("0123", "receipt.json")):
        store.write(b"x", *parts)
    assert store.cell_ids() == {CELL.cell_id}
    assert store.finished([CELL]) == {CELL.cell_id}


def test_removing_nothing_is_fine(store: Store) -> None:
    store.remove("nothing")
    store.remove(CELL.cell_id, "checkpoints")
    store.write(b"x", "file")
    store.remove("file", "below")
    assert store.read("file") == b"x"


@pytest.mark.parametrize("below", ["", "/below", "/far/below"])
def test_a_store_that_is_a_file(tmp_path: Path, below: str) -> None:
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


def test_a_folder_in_a_files_place_is_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / CELL.cell_id / "receipt.json" / "in it").mkdir(parents=True)
    store = Store(tmp_path)
    assert store.receipt(CELL) is None
    receipt = finish(store, CELL)
    assert store.receipt(CELL) == receipt
    assert [path.name for path in (tmp_path / CELL.cell_id / "damaged").glob("receipt.json-*/*")] == ["in it"]


@pytest.mark.parametrize("name", ["000002.pt", "000002.json"])
def test_a_folder_in_a_checkpoints_place_does_not_keep_it_from_being_written(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    (tmp_path / CELL.cell_id / "checkpoints" / name / "in it").mkdir(parents=True)
    begin(store, CELL, 2)
    assert store.load_checkpoint(CELL) is not None
    assert [path.name for path in (tmp_path / CELL.cell_id / "damaged").glob(f"{name}-*/*")] == ["in it"]


@pytest.mark.parametrize("folder", ["claims", "checkpoints", "history"])
def test_a_file_in_a_folders_place_is_damaged(tmp_path: Path, folder: str) -> None:
    store = Store(tmp_path)
    store.write_cell(CELL)
    store.write(b"not a folder", CELL.cell_id, folder)
    claims = Claims(store, Lease(store, "mine"))
    assert claims.take(CELL)
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


def test_what_a_client_of_an_object_store_raises_is_an_error_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"memory://{uuid.uuid4().hex}/store")

    def unreachable(*_: object, **__: object) -> None:
        raise ClientError("no credentials")

    class ClientError(Exception):
        """As botocore's: no OSError."""

    for name in ("cat_file", "pipe_file", "ls", "rm", "find"):
        monkeypatch.setattr(store.fs, name, unreachable, raising=False)
    calls: list[Callable[[], object]] = [
        lambda: store.read("x"), lambda: store.write(b"", "x"), lambda: store.create(b"", "x"), store.names,
        lambda: store.remove("x"), lambda: store.rename(("x",), ("y",)),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(StoreError, match=r"^store memory://.*: no credentials$"):
            call()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody waits; for how long they would have."""
    pauses: list[float] = []
    clock = iter(range(10**6))
    monkeypatch.setattr(files.time, "sleep", pauses.append)
    monkeypatch.setattr(files.time, "monotonic", lambda: float(next(clock)))
    return pauses


@pytest.mark.parametrize("place", ["local", "memory"])
def test_what_passes_is_waited_for(
    place: str, tmp_path: Path, hurried: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uri = str(tmp_path / "store") if place == "local" else f"memory://{uuid.uuid4().hex}/store"
    store, left = Store(uri, patience=100), 0

    def ill(call: Callable[..., Any], after: bool = False) -> Callable[..., Any]:
        def sometimes(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if after and left:
                # What was asked for is done, but nobody hears of it.
                call(*arguments, **options)
            if left:
                left -= 1
                raise OSError(errno.ESTALE, "Stale file handle")
            return call(*arguments, **options)

        return sometimes

    for name in ("cat_file", "ls", "rm", "pipe_file", "find"):
        monkeypatch.setattr(store.fs, name, ill(getattr(store.fs, name)))
    monkeypatch.setattr(files, "read_regular", ill(read_regular))
    monkeypatch.setattr(files, "write_whole", ill(write_whole))
    monkeypatch.setattr(files, "create_whole", ill(create_whole, after=True))
    monkeypatch.setattr(Path, "rename", ill(Path.rename))
    calls: list[tuple[Callable[[], object], object]] = [
        (lambda: store.write(b"one", "a", "x"), None), (lambda: store.read("a", "x"), b"one"),
        (lambda: store.create(b"two", "a", "y"), True), (lambda: store.create(b"three", "a", "y"), False),
        (lambda: store.names("a"), ["x", "y"]), (lambda: store.rename(("a", "x"), ("a", "z")), None),
        (lambda: store.remove("a", "z"), None),
    ]  # fmt: skip
    for call, wanted in calls:
        left = 3
        found = call()
        assert (sorted(found) if isinstance(found, list) else found) == wanted
        assert left == 0
    assert store.names("a") == ["y"]
    assert store.read("a", "y") == b"two"
    assert len(hurried) > 2 * len(calls)
    # It is told of, and not at each try.
    told = [record for record in caplog.records if "tried again" in record.message]
    assert len(calls) <= len(told) < len(hurried) / 2


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), 1), (OSError(errno.EROFS, "Read-only file system"), 1),
        (OSError(errno.ENOSPC, "No space left on device"), 1), (ValueError("our own mistake"), 1),
        (TimeoutError("timed out"), 7), (OSError(errno.EIO, "Input/output error"), 7),
    ],
)  # fmt: skip
def test_what_does_not_pass_is_not_waited_for(
    error: Exception, tries: int, hurried: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, tried = Store(f"memory://{uuid.uuid4().hex}/store", patience=10), 0

    def fails(*_: object, **__: object) -> None:
        nonlocal tried
        tried += 1
        raise error

    monkeypatch.setattr(store.fs, "pipe_file", fails)
    with pytest.raises(StoreFull if getattr(error, "errno", None) == errno.ENOSPC else StoreError):
        store.write(b"x", "x")
    assert tried == tries
    # Nor by who is not patient.
    tried = 0
    store.patience = 0
    with pytest.raises(StoreError):
        store.write(b"x", "x")
    assert tried == 1


def test_a_receipt_that_is_set_aside_takes_along_what_mlflow_has_of_it(store: Store) -> None:
    receipt = finish(store, CELL)
    mirror = Mirror(tracking_uri="x", run_id="y", epochs=3, state="finished")
    store.write_mirror(CELL.cell_id, mirror)
    store.write(b"other weights", CELL.cell_id, "weights.safetensors")
    store.check_weights(CELL)
    assert store.receipt(CELL) is None
    assert store.mirror(CELL.cell_id) is None
    assert receipt.cell == CELL


@pytest.mark.parametrize("what", ["pipe", "huge"])
def test_what_never_ends_is_damaged(tmp_path: Path, what: str) -> None:
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
    said = "it is empty" if what == "pipe" else "it is too large"
    assert note.text == f"receipt.json cannot be used: {said}; kept as damaged/{kept}"


@pytest.mark.parametrize("uri", ["nosuch://bucket/x", "gs+x://y"])
def test_unknown_stores(uri: str) -> None:
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
        cell_id=cell.cell_id, spec_version=1, epoch=epoch, sha256=sha256(payload), parameters=1, started=STARTED,
        epochs=make_epochs(2),
    ), payload)
    checksum = store.write_weights(other.cell_id, payload)
    store.write_receipt(make_receipt(other, reason="x" * (epoch % 5000), weights_sha256=checksum))
    print(epoch, flush=True)
"""


def test_killed_writers_leave_only_whole_files(tmp_path: Path) -> None:
    store, draw = Store(tmp_path / "store"), random.Random(0)
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "store"), str(Path(__file__).parent)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            written = 0
            # Reading while it writes, then an end in the middle of some write.
            for _ in range(draw.randint(2, 30)):
                line = writer.stdout.readline().strip()
                assert line
                written = 0 if line == b"ready" else int(line)
                if written:
                    assert store.receipt(OTHER) is not None
                    weights = store.read(OTHER.cell_id, "weights.safetensors")
                    assert weights is not None
                    assert len(weights) == 400_000
                    assert len(set(weights)) == 1
            for _ in range(draw.randint(0, 2000)):
                pass
            writer.send_signal(signal.SIGKILL)
        assert writer.returncode == -signal.SIGKILL
        assert store.receipt(OTHER) is not None
        loaded = store.load_checkpoint(CELL)
        assert loaded is not None
        assert loaded[0].epoch >= written
        assert loaded[1] == bytes([loaded[0].epoch % 256]) * 400_000
        assert not damaged(store, CELL.cell_id)
        assert not damaged(store, OTHER.cell_id)
        store.remove(CELL.cell_id)


def test_manifests_name_their_cell() -> None:
    assert {"cell_id", "sha256", "epoch"} <= Manifest.model_fields.keys()


TIME, EPOCH = 1e300, make_epochs(1)[0]
ABSURD: dict[str, dict[str, Any]] = {
    "parameters": {"parameters": 10**400},
    "negative parameters": {"parameters": -1},
    "metrics": {"metrics": {"top1": 1e308}},
    "epoch": {"epochs": (EPOCH.model_copy(update={"epoch": 10**400}),)},
    "time of an epoch": {"epochs": (EPOCH.model_copy(update={"time": TIME}),)},
    "metrics of an epoch": {"epochs": (EPOCH.model_copy(update={"metrics": {"top1": -1e308}}),)},
    **{
        f"{key} of its making": {"provenance": make_receipt(CELL).provenance.model_copy(update={key: value})}
        for key, value in {"started": -TIME, "ended": TIME, "threads": 10**400, "devices": -1}.items()
    },
}


@pytest.mark.parametrize("what", ABSURD)
def test_a_receipt_with_absurd_numbers_is_another_versions(store: Store, what: str) -> None:
    """It counts as absent and stays, and nobody trains the cell again."""
    receipt = make_receipt(CELL)
    store.write_model(receipt, CELL.cell_id, "receipt.json")
    assert store.receipt(CELL) == receipt
    store.write_model(receipt.model_copy(update=ABSURD[what]), CELL.cell_id, "receipt.json")
    assert store.receipt(CELL) is None
    assert store.progress(CELL.cell_id) is None
    with pytest.raises(StoreError, match="has a receipt of another version of pld_grid"):
        store.check_receipt(CELL)
    assert "receipt.json" in names(store, CELL.cell_id)


def test_what_happened_at_absurd_times_did_not_happen(store: Store) -> None:
    begin(store, CELL, 1)
    store.note(CELL.cell_id, "its worker died")
    (note,) = store.history(CELL.cell_id)
    status, entry = Status(state="failed", time=STARTED), claims.Entry(kind="claimed", run="", lease="x", time=STARTED)
    for kept, *place in ((status, "status.json"), (note, "history", "9.json"), (entry, "claims", "000001.json")):
        store.write_model(kept.model_copy(update={"time": TIME}), CELL.cell_id, *place)
    found = store.progress(CELL.cell_id)
    assert found is not None
    assert found.state == "unfinished"
    assert store.history(CELL.cell_id) == [note]
    assert claims.entries(store, CELL.cell_id) == []


def test_the_largest_numbers_that_a_receipt_may_have(store: Store) -> None:
    """Far from what any training makes, and still read."""
    epoch = EPOCH.model_copy(update={"epoch": 100_000, "time": 1e11, "metrics": {"top1": 1e100, "top5": -1e100}})
    receipt = make_receipt(CELL, parameters=2**53, epochs=(epoch,))
    store.write_receipt(receipt)
    assert store.receipt(CELL) == receipt
