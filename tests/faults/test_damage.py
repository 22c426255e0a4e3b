"""A store whose files are damaged between two runs: noticed, kept, named and made good, with the same numbers."""

import json
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chaos import Run, check_whole
from counting import Count, Undisturbed
from sabotage import Sabotage
from service import GRID, PROFILE, Service

from pld_grid import api
from pld_grid.spec import SPEC_VERSION, Cell
from pld_grid.store import Manifest, Store, claims, sha256

STUDENTS, CHANGED_BYTES = 8, 200

# A process stops by itself before the epoch that a file names, and notes each epoch that it begins.
STOPPING = {
    "pld_grid.train.student": """
import os, signal
_begin = Student.begin_epoch


def begin_epoch(self):
    if os.path.exists(f"{SABOTAGE}/stop-{self.next_epoch}"):
        os.kill(os.getpid(), signal.SIGSTOP)
    with open(f"{SABOTAGE}/begun", "a") as diary:
        diary.write(f"{self.cell.cell_id} {self.next_epoch}\\n")
    _begin(self)


Student.begin_epoch = begin_epoch
""",
    "pld_grid.store.leases": """
import os

if os.path.exists(f"{SABOTAGE}/impatient"):
    BEAT, LAPSED = 1.0, 10.0
""",
}


def truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def flipped(data: bytes, chance: random.Random) -> bytes:
    place, changed = chance.randrange(len(data)), bytearray(data)
    changed[place] ^= 1 << chance.randrange(8)
    return bytes(changed)


def emptied(data: bytes, chance: random.Random) -> bytes:
    return b""


def overwritten(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + chance.randbytes(len(data) - place)


KINDS: list[Callable[[bytes, random.Random], bytes]] = [truncated, flipped, emptied, overwritten]


class Grid:
    """A grid whose run can be interrupted where all students stand, and its store, whose files can be damaged."""

    def __init__(self, folder: Path, database: Path, chance: random.Random | None = None, count: Count | None = None):
        self.service = Service(folder, database=database)
        self.sabotage = Sabotage(self.service, folder / "stopping", STOPPING)
        self.chance, self.count = chance or random.Random(0), count or Count()
        grid = api.load_grid(folder / "losses.yaml", str(folder / "tiny.yaml"))
        self.cells = {cell.cell_id: cell for cell in grid.cells()}
        (self.teacher,) = (cell_id for cell_id, cell in self.cells.items() if cell.teacher is None and cell.epochs == 2)
        self.students = [cell_id for cell_id in self.cells if cell_id != self.teacher]
        self.runs: list[Run] = []
        self.coming: dict[str, list[Callable[[bytes, random.Random], bytes]]] = defaultdict(list)

    @property
    def store(self) -> Path:
        return self.service.store

    def interrupt(self, epoch: int) -> None:
        """Kills everything when every student has the checkpoint of an epoch and a run, and before it has the next."""
        (self.sabotage.folder / f"stop-{epoch + 1}").touch()
        self.runs.append(Run(self.service.start("run")))
        wanted = (f"checkpoints/{epoch:06d}.json", "mirror.json")
        files = [self.store / student / name for student in self.students for name in wanted]
        try:
            self.runs[-1].wait_for(lambda: all(file.exists() for file in files))
        finally:
            self.end()
        (self.sabotage.folder / f"stop-{epoch + 1}").unlink()

    def end(self) -> None:
        """Kills what runs."""
        for run in self.runs:
            if run.process.poll() is None:
                run.kill_all()

    def finish(self) -> None:
        """Runs to the end."""
        self.runs.append(Run(self.service.start("run")))
        assert self.runs[-1].end() == 0, self.runs[-1].said
        assert "Traceback" not in self.runs[-1].said

    def begun(self) -> list[tuple[str, int]]:
        """Epochs of cells that were begun, in their order."""
        lines = (self.sabotage.folder / "begun").read_text().splitlines()
        return [(cell_id, int(epoch)) for cell_id, epoch in map(str.split, lines)]

    def begun_at(self, since: int) -> dict[str, int]:
        """At which epoch cells have begun, after so many were."""
        return dict(reversed(self.begun()[since:]))

    def spoil(self, cell_id: str, *parts: str) -> tuple[str, bytes]:
        """Damages a file in one of the ways in which disks do that; whose it is, and what it holds now."""
        path, left = self.store.joinpath(cell_id, *parts), self.coming[parts[0]]
        if not left:
            # Of checkpoints, of receipts and so on, each in its own order: every way before any comes again.
            left += self.chance.sample(KINDS, len(KINDS))
        kind = left.pop()
        return self.replace(kind(path.read_bytes(), self.chance), kind.__name__, cell_id, *parts)

    def replace(self, data: bytes, what: str, cell_id: str, *parts: str) -> tuple[str, bytes]:
        """Gives a file other content; whose it is, and that content."""
        self.store.joinpath(cell_id, *parts).write_bytes(data)
        self.count(f"{parts[0].removesuffix('.json')} {what}")
        return cell_id, data

    def lose(self, cell_id: str, *parts: str) -> None:
        """Removes a file."""
        self.store.joinpath(cell_id, *parts).unlink()
        self.count(f"{parts[0].removesuffix('.json')} missing")

    def fold(self, cell_id: str, *parts: str) -> None:
        """Puts a folder, with something in it, in a file's place."""
        path = self.store.joinpath(cell_id, *parts)
        path.unlink()
        path.mkdir()
        (path / "within").write_bytes(b"something")
        self.count(f"{parts[0].removesuffix('.json')} is a folder")

    def kept(self, cell_id: str) -> list[bytes]:
        """What is in the files that were set aside, and in the folders."""
        return [path.read_bytes() for path in (self.store / cell_id / "damaged").rglob("*") if path.is_file()]

    def notes(self, cell_id: str) -> str:
        return "\n".join(note.text for note in Store(self.store).history(cell_id))


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Path:
    """A folder with a grid: its teacher is finished, its students have two checkpoints each."""
    grid = Grid(tmp_path_factory.mktemp("interrupted"), database)
    grid.interrupt(3)
    return grid.service.folder


@pytest.fixture
def grid(interrupted: Path, tmp_path: Path, chance: random.Random, count: Count) -> Iterator[Grid]:
    """That grid, to be damaged."""
    folder = tmp_path / "run"
    made = Grid(folder, interrupted / ".pld_grid" / "mlflow.db", chance, count)
    for name in (".pld_grid", "stopping"):
        shutil.rmtree(folder / name)
        shutil.copytree(interrupted / name, folder / name)
    made.sabotage = Sabotage(made.service, folder / "stopping", STOPPING)
    yield made
    made.end()


def of_later_version(path: Path, **changes: object) -> bytes:
    """A checked file's content with other fields, its checksum right."""
    content = json.loads(path.read_bytes())["content"] | changes
    body = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f'{{"sha256":"{sha256(body.encode())}","content":{body}}}\n'.encode()


def test_damaged_stores_are_made_good(grid: Grid, undisturbed: Undisturbed) -> None:
    store, before = Store(grid.store), len(grid.begun())
    lost: list[tuple[str, bytes]] = []
    students = grid.chance.sample(grid.students, STUDENTS)
    payload, manifest, both, nothing, strange, later, newer, folder = students

    def path(cell_id: str, *parts: str) -> Path:
        return grid.store.joinpath(cell_id, *parts)

    def pair(cell_id: str, epoch: int) -> list[tuple[str, bytes]]:
        return [grid.spoil(cell_id, "checkpoints", f"{epoch:06d}.{end}") for end in ("json", "pt")]

    # Of the checkpoints after epochs 2 and 3.
    lost += [grid.spoil(payload, "checkpoints", "000003.pt")]
    lost += [grid.spoil(manifest, "checkpoints", "000003.json")]
    grid.lose(both, "checkpoints", "000003.pt")
    manifest_of_missing = path(both, "checkpoints", "000003.json").read_bytes()
    lost += [(both, manifest_of_missing), grid.spoil(both, "checkpoints", "000002.json")]
    lost += [*pair(nothing, 2)[:1], *pair(nothing, 3)[:1]]
    others = [path(payload, "checkpoints", f"000002.{end}").read_bytes() for end in ("pt", "json")]
    for end, data in zip(("pt", "json"), others, strict=True):
        spoilt = grid.replace(data, "of another cell", strange, "checkpoints", f"000003.{end}")
    lost += [spoilt]
    unknown = of_later_version(path(later, "checkpoints", "000003.json"), colour="red")
    lost += [grid.replace(unknown, "of a later version", later, "checkpoints", "000003.json")]
    version = of_later_version(path(newer, "checkpoints", "000003.json"), spec_version=2)
    lost += [grid.replace(version, "of a newer spec version", newer, "checkpoints", "000003.json")]
    grid.fold(folder, "checkpoints", "000003.pt")
    lost += [(folder, b"something")]
    # Files that hold no numbers of this training, and those that hold others'.
    lost += [grid.replace(path(nothing, "cell.json").read_bytes(), "of another cell", payload, "cell.json")]
    lost += [grid.spoil(manifest, "cell.json"), grid.spoil(both, "mirror.json")]
    grid.replace(path(payload, "mirror.json").read_bytes(), "of another cell", strange, "mirror.json")
    finished = path(grid.teacher, "claims", "000002.json").read_bytes()
    grid.replace(finished, "of another cell", strange, "claims", "000001.json")
    grid.spoil(later, "claims", "000001.json")
    grid.replace(b"{", "broken", newer, "status.json")
    lost += [grid.spoil(grid.teacher, "receipt.json")]

    grid.interrupt(5)
    starts = {payload: 3, manifest: 3, both: 1, nothing: 1, strange: 3, later: 3, newer: 3, folder: 3}
    # Not the teacher: its log has the receipt.
    assert grid.begun_at(before) == starts
    assert [found for found in lost if found[1] not in grid.kept(found[0])] == []
    for cell_id, _ in lost:
        assert "cannot be used" in grid.notes(cell_id)
    assert f"it is of cell {payload} after epoch 2" in grid.notes(strange)
    assert "000003.json cannot be used: 000003.pt is missing" in grid.notes(both)
    assert store.cell(payload) == grid.cells[payload]
    shown = grid.service.run("why", nothing, "--profile", "tiny.yaml")[0]
    for epoch in (2, 3):
        assert f"checkpoints/{epoch:06d}.json cannot be used: " in shown
        assert f"kept as damaged/{epoch:06d}.json-" in shown

    # Whatever lies around, in any way; and the teacher is made again.
    trained = len(grid.begun())
    weights = grid.spoil(grid.teacher, "weights.safetensors")
    for cell_id in grid.students:
        files = [found for found in path(cell_id).rglob("*") if found.is_file() and "damaged" not in found.parts]
        for file in grid.chance.sample(sorted(files), 3):
            parts = file.relative_to(path(cell_id)).parts
            other = path(grid.chance.choice(grid.students), *parts)
            if grid.chance.random() < 0.15:
                grid.fold(cell_id, *parts)
            elif grid.chance.random() < 0.15:
                grid.lose(cell_id, *parts)
            elif other.is_file() and other != file and grid.chance.random() < 0.3:
                grid.replace(other.read_bytes(), "of another cell", cell_id, *parts)
            elif file.stat().st_size:
                grid.spoil(cell_id, *parts)
    # Of a lease that cannot be read, nobody knows whose it was: it has to lapse.
    (grid.sabotage.folder / "impatient").touch()
    for lease in (grid.store / "leases").iterdir():
        lease.write_bytes(truncated(lease.read_bytes(), grid.chance))
        grid.count("lease truncated")
    grid.finish()
    assert grid.begun_at(trained)[grid.teacher] == 1
    assert weights[1] in grid.kept(grid.teacher)
    check_whole(grid.service, undisturbed(PROFILE, GRID), {each for run in grid.runs for each in run.seen})

    # Finished cells: what has only lost its receipt gets it back, what has lost more is trained again.
    trained = len(grid.begun())
    *spoilt, missing, strange, newer, folder = grid.chance.sample(grid.students, STUDENTS)
    lost = [grid.spoil(cell_id, "receipt.json") for cell_id in spoilt]
    again = [cell_id for cell_id, _ in lost[:2]]
    for cell_id in again:
        last = max(path(cell_id, "claims").iterdir()).name
        grid.spoil(cell_id, "claims", last)
        grid.spoil(cell_id, "mirror.json")
    grid.lose(missing, "receipt.json")
    # Whole, and so right of its own, but not this cell's.
    other = path(folder, "receipt.json").read_bytes()
    lost += [grid.replace(other, "of another cell", strange, "receipt.json")]
    cell = json.loads(path(newer, "receipt.json").read_bytes())["content"]["cell"] | {"spec_version": SPEC_VERSION + 1}
    version = of_later_version(path(newer, "receipt.json"), cell=cell)
    lost += [grid.replace(version, "of a newer spec version", newer, "receipt.json")]
    grid.fold(folder, "receipt.json")
    lost += [(folder, b"something")]
    grid.finish()
    assert grid.begun_at(trained) == dict.fromkeys(again, 1)
    assert [found for found in lost if found[1] not in grid.kept(found[0])] == []
    for cell_id, _ in lost:
        assert "receipt.json cannot be used" in grid.notes(cell_id)
    assert f"receipt.json cannot be used: it is of cell {folder}" in grid.notes(strange)
    for kind in KINDS:
        assert {f"checkpoints {kind.__name__}", f"receipt {kind.__name__}"} <= grid.count.faults.keys()
    check_whole(grid.service, undisturbed(PROFILE, GRID), {each for run in grid.runs for each in run.seen})


def test_no_changed_byte_is_believed(interrupted: Path, tmp_path: Path, chance: random.Random, count: Count) -> None:
    """Any one byte of any file of a cell, finished or not: what is read is what was written, or nothing."""
    store = Store(tmp_path / "store")
    whole = Store(interrupted / ".pld_grid" / "store")
    cells = [cell for cell_id in sorted(whole.cell_ids()) if (cell := whole.cell(cell_id)) is not None]
    assert len(cells) == STUDENTS + 1

    def read(store: Store, cell: Cell) -> list[object]:
        return [store.cell(cell.cell_id), store.receipt(cell), store.mirror(cell.cell_id),
                claims.newest(store, cell.cell_id)[1]]  # fmt: skip

    for _ in range(CHANGED_BYTES):
        cell = chance.choice(cells)
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        folder = tmp_path / "store" / cell.cell_id
        shutil.copytree(Path(whole.root) / cell.cell_id, folder)
        path = chance.choice(sorted(found for found in folder.rglob("*") if found.is_file()))
        changed, place = bytearray(path.read_bytes()), chance.randrange(path.stat().st_size)
        changed[place] ^= chance.randrange(1, 256)
        path.write_bytes(changed)
        for found, wanted in zip(read(store, cell), read(whole, cell), strict=True):
            assert found in (None, wanted), (path, place)
        progress, wanted_progress = store.progress(cell.cell_id), whole.progress(cell.cell_id)
        assert wanted_progress is not None
        epochs = progress.epochs if progress is not None else ()
        assert epochs == wanted_progress.epochs[: len(epochs)]
        if wanted_progress.receipt is not None:
            if path.name == "weights.safetensors":
                assert not store.has_weights(wanted_progress.receipt)
            continue
        loaded = store.load_checkpoint(cell)
        assert loaded is not None
        manifest, payload = loaded
        assert manifest == whole.read_model(Manifest, cell.cell_id, "checkpoints", f"{manifest.epoch:06d}.json")
        assert payload == whole.read(cell.cell_id, "checkpoints", f"{manifest.epoch:06d}.pt")
        assert manifest.epoch == (2 if path.name in ("000003.json", "000003.pt") else 3)
    count("store with one byte changed", CHANGED_BYTES)
