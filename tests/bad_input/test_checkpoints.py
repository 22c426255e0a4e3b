"""Bad checkpoints: quarantined, noted in one line of the cell's history, and replaced by the one before."""

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trainable_cells import Interruption, interrupt_at, numbers, train, trainable

from pld_grid.experiment.events import CellStarted, EpochCompleted
from pld_grid.store import Manifest, Store, sha256

CELL, OTHER = trainable(epochs=3), trainable(epochs=3, seed=1)
LAST = 2
Spoil = Callable[[Store], None]


def _path(store: Store, ending: str) -> Path:
    return Path(store.path(CELL.cell_id, "checkpoints", f"{LAST:06d}.{ending}"))


def _bytes(ending: str, change: Callable[[bytes], bytes]) -> Spoil:
    """Change a file of the last checkpoint."""

    def spoil(store: Store) -> None:
        path = _path(store, ending)
        path.write_bytes(change(path.read_bytes()))

    return spoil


def _payload(change: Callable[[Any], object]) -> Spoil:
    """Change the content of a checkpoint, and its checksum too."""

    def spoil(store: Store) -> None:
        state = torch.load(_path(store, "pt"), weights_only=True)
        buffer = io.BytesIO()
        torch.save(change(state), buffer)
        _save(store, buffer.getvalue())

    return spoil


def _save(store: Store, payload: bytes) -> None:
    manifest = store.read_model(Manifest, CELL.cell_id, "checkpoints", f"{LAST:06d}.json")
    store.save_checkpoint(manifest.model_copy(update={"sha256": sha256(payload)}), payload)


def _manifest(**changes: object) -> Spoil:
    """Change fields of a manifest, and its checksum too."""

    def change(data: bytes) -> bytes:
        body = json.dumps(json.loads(data)["content"] | changes, separators=(",", ":")).encode()
        return b'{"sha256":"%s","content":%s}\n' % (sha256(body).encode(), body)

    return _bytes("json", change)


def _instead(ending: str, make: Callable[[Path], object]) -> Spoil:
    """Replace a file by something else."""

    def spoil(store: Store) -> None:
        path = _path(store, ending)
        path.unlink()
        make(path)

    return spoil


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def _flipped(data: bytes) -> bytes:
    return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]


def _without(part: str) -> Spoil:
    return _payload(lambda state: {name: value for name, value in state.items() if name != part})


def _other_shape(state: dict[str, Any]) -> dict[str, Any]:
    first = next(iter(state["model"]))
    return state | {"model": state["model"] | {first: torch.zeros(7, 7)}}


CHECKSUM = "000002.pt has another checksum than it says"
NO_TENSORS = "it has its checksum but holds no tensors"
UNFIT = "it does not fit this student"
CASES: dict[str, tuple[Spoil, str]] = {
    "empty": (_bytes("pt", lambda _: b""), CHECKSUM),
    "truncated": (_bytes("pt", lambda data: data[: len(data) // 2]), CHECKSUM),
    "one bit": (_bytes("pt", _flipped), CHECKSUM),
    "missing": (_instead("pt", lambda _: None), "000002.pt is missing"),
    "folder": (_instead("pt", Path.mkdir), CHECKSUM),
    "pipe": (_instead("pt", os.mkfifo), CHECKSUM),
    "pickle of a function": (lambda store: _save(store, pickle.dumps(os.getpid)), NO_TENSORS),
    "plain text": (lambda store: _save(store, b"state\n" * 100), NO_TENSORS),
    "empty under its own checksum": (lambda store: _save(store, b""), NO_TENSORS),
    "list": (_payload(lambda _: [torch.zeros(3)]), UNFIT),
    "no model": (_without("model"), UNFIT),
    "no optimizer": (_without("optimizer"), UNFIT),
    "no scaler": (_without("scaler"), UNFIT),
    "model of another shape": (_payload(_other_shape), UNFIT),
    "model of other names": (_payload(lambda state: state | {"model": {"mine": torch.zeros(3)}}), UNFIT),
    "optimizer of another model": (_payload(lambda state: state | {"optimizer": {"state": {}}}), UNFIT),
    "manifest: empty": (_bytes("json", lambda _: b""), "it is empty"),
    "manifest: truncated": (_bytes("json", lambda data: data[:-9]), "its checksum is wrong"),
    "manifest: one bit": (_bytes("json", _flipped), "its checksum is wrong"),
    "manifest: binary": (_bytes("json", lambda _: bytes(range(256))), "its checksum is wrong"),
    "manifest: deep": (_bytes("json", lambda _: b"[" * 100_000), "its checksum is wrong"),
    "manifest: huge": (_instead("json", _huge), "it is too large"),
    "manifest: pipe": (_instead("json", os.mkfifo), "it is empty"),
    "manifest: folder": (_instead("json", Path.mkdir), "it is empty"),
    "manifest: of another cell": (_manifest(cell_id=OTHER.cell_id), f"it is of cell {OTHER.cell_id} after epoch 2"),
    "manifest: of another epoch": (_manifest(epoch=1), f"it is of cell {CELL.cell_id} after epoch 1"),
    "manifest: of a newer spec version": (_manifest(spec_version=99), "it is of spec version 99"),
    "manifest: of a later version": (_manifest(colour="red"), "another version of pld_grid wrote it"),
    "manifest: text for a number": (_manifest(parameters="many"), "another version of pld_grid wrote it"),
    "manifest: NaN": (_manifest(started=float("nan")), "another version of pld_grid wrote it"),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Return the numbers of the cell without any damage."""
    return numbers(train(tmp_path_factory.mktemp("undisturbed"), CELL)[CELL.cell_id])


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of the cell's first two checkpoints."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(Interruption):
        train(folder, CELL, on_event=interrupt_at(EpochCompleted, LAST))
    paths = (
        Path(Store(folder).path(CELL.cell_id, "checkpoints")) / f"{n:06d}.{e}" for n in (1, 2) for e in ("pt", "json")
    )
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.parametrize("name", CASES)
def test_bad_checkpoint_is_quarantined_and_the_one_before_is_used(tmp_path, name, interrupted, undisturbed):
    spoil, reason = CASES[name]
    store = Store(tmp_path)
    for file, data in interrupted.items():
        store.write(data, CELL.cell_id, "checkpoints", file)
    spoil(store)
    started: list[int] = []
    receipt = train(
        tmp_path, CELL, on_event=lambda event: started.append(event.epoch) if isinstance(event, CellStarted) else None
    )
    assert numbers(receipt[CELL.cell_id]) == undisturbed
    # Training continues from the checkpoint before, not from the start.
    assert started == [1]
    notes = [note.text for note in store.history(CELL.cell_id)]
    assert notes
    assert all(note.isprintable() and "cannot be used: " in note for note in notes), notes
    assert any(f"cannot be used: {reason}" in note for note in notes), notes
    kept = {note.rpartition("; kept as damaged/")[2] for note in notes}
    assert kept == set(store.names(CELL.cell_id, "damaged"))
