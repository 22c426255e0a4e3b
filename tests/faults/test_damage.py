"""A store whose files are damaged between runs: damage is noticed, quarantined and repaired, with the same numbers."""

import json
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cli_process import GRID, PROFILE, Service
from fault_counts import Count
from fault_injection import FaultInjection
from process_kills import Run, check_results

from pld_grid.experiment.cell import SPEC_VERSION, Cell
from pld_grid.service import loading
from pld_grid.store import Manifest, Store, claims, sha256

STUDENTS, CHANGED_BYTES = 8, 200

# A process stops itself before the epoch that a file names, and records each epoch that it begins.
STOPPING = {
    "pld_grid.train.student": """
import os, signal
_begin = Student.begin_epoch


def begin_epoch(self):
    if os.path.exists(f"{FAULT_FOLDER}/stop-{self.next_epoch}"):
        os.kill(os.getpid(), signal.SIGSTOP)
    with open(f"{FAULT_FOLDER}/begun", "a") as diary:
        diary.write(f"{self.cell.cell_id} {self.next_epoch}\\n")
    _begin(self)


Student.begin_epoch = begin_epoch
""",
    "pld_grid.store.leases": """
import os

if os.path.exists(f"{FAULT_FOLDER}/short-leases"):
    HEARTBEAT_SECONDS, LEASE_TTL_SECONDS = 1.0, 10.0
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
    """A grid whose run can be interrupted after a given epoch of all students, and the files of its store."""

    def __init__(self, folder: Path, database: Path, chance: random.Random | None = None, count: Count | None = None):
        self.service = Service(folder, database=database)
        self.injection = FaultInjection(self.service, folder / "stopping", STOPPING)
        self.chance, self.count = chance or random.Random(0), count or Count()
        grid = loading.load_grid(folder / "losses.yaml", str(folder / "tiny.yaml"))
        self.cells = {cell.cell_id: cell for cell in grid.cells()}
        (self.teacher,) = (cell_id for cell_id, cell in self.cells.items() if cell.teacher is None and cell.epochs == 2)
        self.students = [cell_id for cell_id in self.cells if cell_id != self.teacher]
        self.runs: list[Run] = []
        self.coming: dict[str, list[Callable[[bytes, random.Random], bytes]]] = defaultdict(list)

    @property
    def store(self) -> Path:
        return self.service.store

    def interrupt(self, epoch: int) -> None:
        """Kill everything when every student has its run and the checkpoint of an epoch, but not the next one."""
        (self.injection.folder / f"stop-{epoch + 1}").touch()
        self.runs.append(Run(self.service.start("run")))
        wanted = (f"checkpoints/{epoch:06d}.json", "mirror.json")
        files = [self.store / student / name for student in self.students for name in wanted]
        try:
            self.runs[-1].wait_for(lambda: all(file.exists() for file in files))
        finally:
            self.end()
        (self.injection.folder / f"stop-{epoch + 1}").unlink()

    def end(self) -> None:
        """Kill what still runs."""
        for run in self.runs:
            if run.process.poll() is None:
                run.kill_all()

    def finish(self) -> None:
        """Run to the end."""
        self.runs.append(Run(self.service.start("run")))
        assert self.runs[-1].end() == 0, self.runs[-1].output
        assert "Traceback" not in self.runs[-1].output

    def begun(self) -> list[tuple[str, int]]:
        """Return the epochs that cells have begun, in order."""
        lines = (self.injection.folder / "begun").read_text().splitlines()
        return [(cell_id, int(epoch)) for cell_id, epoch in map(str.split, lines)]

    def begun_at(self, since: int) -> dict[str, int]:
        """Return the first epoch of each cell after the first `since` epochs."""
        return dict(reversed(self.begun()[since:]))

    def spoil(self, cell_id: str, *parts: str) -> tuple[str, bytes]:
        """Damage a file in one of the ways of disks; return its cell and its new content."""
        path, left = self.store.joinpath(cell_id, *parts), self.coming[parts[0]]
        if not left:
            # For each kind of file, every way is used once before any is used again.
            left += self.chance.sample(KINDS, len(KINDS))
        kind = left.pop()
        return self.replace(kind(path.read_bytes(), self.chance), kind.__name__, cell_id, *parts)

    def replace(self, data: bytes, what: str, cell_id: str, *parts: str) -> tuple[str, bytes]:
        """Replace a file's content; return its cell and that content."""
        self.store.joinpath(cell_id, *parts).write_bytes(data)
        self.count(f"{parts[0].removesuffix('.json')} {what}")
        return cell_id, data

    def lose(self, cell_id: str, *parts: str) -> None:
        """Remove a file."""
        self.store.joinpath(cell_id, *parts).unlink()
        self.count(f"{parts[0].removesuffix('.json')} missing")

    def fold(self, cell_id: str, *parts: str) -> None:
        """Replace a file by a folder with a file in it."""
        path = self.store.joinpath(cell_id, *parts)
        path.unlink()
        path.mkdir()
        (path / "within").write_bytes(b"something")
        self.count(f"{parts[0].removesuffix('.json')} is a folder")

    def kept(self, cell_id: str) -> list[bytes]:
        """Return the contents of all quarantined files."""
        return [path.read_bytes() for path in (self.store / cell_id / "damaged").rglob("*") if path.is_file()]

    def notes(self, cell_id: str) -> str:
        return "\n".join(note.text for note in Store(self.store).history(cell_id))


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Path:
    """Return the folder of a grid whose teacher is finished and whose students have two checkpoints each."""
    grid = Grid(tmp_path_factory.mktemp("interrupted"), database)
    grid.interrupt(3)
    return grid.service.folder


@pytest.fixture
def grid(interrupted: Path, tmp_path: Path, chance: random.Random, count: Count) -> Iterator[Grid]:
    """Yield a copy of that grid, to be damaged."""
    folder = tmp_path / "run"
    made = Grid(folder, interrupted / ".pld_grid" / "mlflow.db", chance, count)
    for name in (".pld_grid", "stopping"):
        shutil.rmtree(folder / name)
        shutil.copytree(interrupted / name, folder / name)
    made.injection = FaultInjection(made.service, folder / "stopping", STOPPING)
    yield made
    made.end()


def of_later_version(path: Path, **changes: object) -> bytes:
    """Return a checked file with changed fields and the right checksum."""
    content = json.loads(path.read_bytes())["content"] | changes
    body = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f'{{"sha256":"{sha256(body.encode())}","content":{body}}}\n'.encode()


class Damaged(NamedTuple):
    """Students by the damage to their store."""

    payload: str
    manifest: str
    both: str
    nothing: str
    strange: str
    later: str
    newer: str
    folder: str


def damage_checkpoints(grid: Grid, students: Damaged) -> list[tuple[str, bytes]]:
    """Damage the checkpoints after epochs 2 and 3; return the cells and contents to be quarantined."""

    def read(cell_id: str, name: str) -> bytes:
        return grid.store.joinpath(cell_id, "checkpoints", name).read_bytes()

    lost = [grid.spoil(students.payload, "checkpoints", "000003.pt")]
    lost += [grid.spoil(students.manifest, "checkpoints", "000003.json")]
    grid.lose(students.both, "checkpoints", "000003.pt")
    lost += [(students.both, read(students.both, "000003.json"))]
    lost += [grid.spoil(students.both, "checkpoints", "000002.json")]
    for epoch in (2, 3):
        lost += [grid.spoil(students.nothing, "checkpoints", f"{epoch:06d}.json")]
        grid.spoil(students.nothing, "checkpoints", f"{epoch:06d}.pt")
    for end, data in [(end, read(students.payload, f"000002.{end}")) for end in ("pt", "json")]:
        replaced = grid.replace(data, "of another cell", students.strange, "checkpoints", f"000003.{end}")
    lost += [replaced]
    unknown = of_later_version(grid.store / students.later / "checkpoints" / "000003.json", colour="red")
    lost += [grid.replace(unknown, "of a later version", students.later, "checkpoints", "000003.json")]
    newer = of_later_version(grid.store / students.newer / "checkpoints" / "000003.json", spec_version=SPEC_VERSION + 1)
    lost += [grid.replace(newer, "of a newer spec version", students.newer, "checkpoints", "000003.json")]
    grid.fold(students.folder, "checkpoints", "000003.pt")
    return [*lost, (students.folder, b"something")]


def damage_other_files(grid: Grid, students: Damaged) -> list[tuple[str, bytes]]:
    """Damage files without numbers of this training; return the cells and contents to be quarantined."""

    def read(cell_id: str, *parts: str) -> bytes:
        return grid.store.joinpath(cell_id, *parts).read_bytes()

    lost = [grid.replace(read(students.nothing, "cell.json"), "of another cell", students.payload, "cell.json")]
    lost += [grid.spoil(students.manifest, "cell.json"), grid.spoil(students.both, "mirror.json")]
    grid.replace(read(students.payload, "mirror.json"), "of another cell", students.strange, "mirror.json")
    finished = read(grid.teacher, "claims", "000002.json")
    grid.replace(finished, "of another cell", students.strange, "claims", "000001.json")
    grid.spoil(students.later, "claims", "000001.json")
    grid.replace(b"{", "broken", students.newer, "status.json")
    return [*lost, grid.spoil(grid.teacher, "receipt.json")]


def damage_any_files(grid: Grid) -> None:
    """Damage three files of each student in any way, and all leases."""
    for cell_id in grid.students:
        cell_folder = grid.store / cell_id
        files = [path for path in cell_folder.rglob("*") if path.is_file() and "damaged" not in path.parts]
        for file in grid.chance.sample(sorted(files), 3):
            parts = file.relative_to(cell_folder).parts
            other = grid.store.joinpath(grid.chance.choice(grid.students), *parts)
            if grid.chance.random() < 0.15:
                grid.fold(cell_id, *parts)
            elif grid.chance.random() < 0.15:
                grid.lose(cell_id, *parts)
            elif other.is_file() and other != file and grid.chance.random() < 0.3:
                grid.replace(other.read_bytes(), "of another cell", cell_id, *parts)
            elif file.stat().st_size:
                grid.spoil(cell_id, *parts)
    # A lease that cannot be read names no process, so it has to expire.
    (grid.injection.folder / "short-leases").touch()
    for lease in (grid.store / "leases").iterdir():
        lease.write_bytes(truncated(lease.read_bytes(), grid.chance))
        grid.count("lease truncated")


def damage_receipts(grid: Grid) -> tuple[list[tuple[str, bytes]], list[str]]:
    """Damage the receipts of finished cells.

    Returns:
        The cells and contents to be quarantined, the last but one with a receipt of the last cell; and the cells that
        have lost so much that they have to be trained again.
    """
    *spoilt, missing, strange, newer, folder = grid.chance.sample(grid.students, STUDENTS)
    lost = [grid.spoil(cell_id, "receipt.json") for cell_id in spoilt]
    retrained = [cell_id for cell_id, _ in lost[:2]]
    for cell_id in retrained:
        grid.spoil(cell_id, "claims", max((grid.store / cell_id / "claims").iterdir()).name)
        grid.spoil(cell_id, "mirror.json")
    grid.lose(missing, "receipt.json")
    receipt = grid.store / newer / "receipt.json"
    cell = json.loads(receipt.read_bytes())["content"]["cell"] | {"spec_version": SPEC_VERSION + 1}
    version = of_later_version(receipt, cell=cell)
    lost += [grid.replace(version, "of a newer spec version", newer, "receipt.json")]
    # This one is intact, but of another cell.
    other = (grid.store / folder / "receipt.json").read_bytes()
    lost += [grid.replace(other, "of another cell", strange, "receipt.json")]
    grid.fold(folder, "receipt.json")
    return [*lost, (folder, b"something")], retrained


def check_quarantined(grid: Grid, lost: list[tuple[str, bytes]], note: str) -> None:
    """Check that the contents are kept, and that each cell's history has the note."""
    assert [(cell_id, data) for cell_id, data in lost if data not in grid.kept(cell_id)] == []
    for cell_id, _ in lost:
        assert note in grid.notes(cell_id)


def test_damaged_store_is_repaired_with_the_same_numbers(grid, undisturbed):
    before, students = len(grid.begun()), Damaged(*grid.chance.sample(grid.students, STUDENTS))
    lost = damage_checkpoints(grid, students) + damage_other_files(grid, students)
    grid.interrupt(5)
    # The teacher does not start again: its claim log has the receipt.
    starts = dict.fromkeys(students, 3) | {students.both: 1, students.nothing: 1}
    assert grid.begun_at(before) == starts
    check_quarantined(grid, lost, "cannot be used")
    assert f"it is of cell {students.payload} after epoch 2" in grid.notes(students.strange)
    assert "000003.json cannot be used: 000003.pt is missing" in grid.notes(students.both)
    assert Store(grid.store).cell(students.payload) == grid.cells[students.payload]
    explanation = grid.service.run("why", students.nothing, "--profile", "tiny.yaml")[0]
    for epoch in (2, 3):
        assert f"checkpoints/{epoch:06d}.json cannot be used: " in explanation
        assert f"kept as damaged/{epoch:06d}.json-" in explanation

    # Now any files, damaged in any way; the teacher is trained again.
    before = len(grid.begun())
    weights = grid.spoil(grid.teacher, "weights.safetensors")
    damage_any_files(grid)
    grid.finish()
    assert grid.begun_at(before)[grid.teacher] == 1
    assert weights[1] in grid.kept(grid.teacher)
    check_results(grid.service, undisturbed(PROFILE, GRID), {each for run in grid.runs for each in run.started})

    # Finished cells: a lost receipt is restored; a cell that has lost more is trained again.
    before = len(grid.begun())
    lost, retrained = damage_receipts(grid)
    grid.finish()
    assert grid.begun_at(before) == dict.fromkeys(retrained, 1)
    check_quarantined(grid, lost, "receipt.json cannot be used")
    (*_, (strange, _), (folder, _)) = lost
    assert f"receipt.json cannot be used: it is of cell {folder}" in grid.notes(strange)
    for kind in KINDS:
        assert {f"checkpoints {kind.__name__}", f"receipt {kind.__name__}"} <= grid.count.faults.keys()
    check_results(grid.service, undisturbed(PROFILE, GRID), {each for run in grid.runs for each in run.started})


def test_file_with_a_changed_byte_is_never_read_as_valid(interrupted, tmp_path, chance, count):
    """Change one byte of a random file of a cell: reading it gives what was written, or nothing."""
    store = Store(tmp_path / "store")
    whole = Store(interrupted / ".pld_grid" / "store")
    cells = [cell for cell_id in sorted(whole.cell_ids()) if (cell := whole.cell(cell_id)) is not None]
    assert len(cells) == STUDENTS + 1

    def read(store: Store, cell: Cell) -> list[object]:
        return [
            store.cell(cell.cell_id),
            store.receipt(cell),
            store.mirror(cell.cell_id),
            claims.last_entry(store, cell.cell_id)[1],
        ]

    for _ in range(CHANGED_BYTES):
        cell = chance.choice(cells)
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        folder = tmp_path / "store" / cell.cell_id
        shutil.copytree(Path(whole.root) / cell.cell_id, folder)
        path = chance.choice(sorted(file for file in folder.rglob("*") if file.is_file()))
        changed, place = bytearray(path.read_bytes()), chance.randrange(path.stat().st_size)
        changed[place] ^= chance.randrange(1, 256)
        path.write_bytes(changed)
        for actual, written in zip(read(store, cell), read(whole, cell), strict=True):
            assert actual in (None, written), (path, place)
        progress, wanted_progress = store.record(cell.cell_id), whole.record(cell.cell_id)
        epochs = progress.epochs if progress is not None else ()
        assert epochs == wanted_progress.epochs[: len(epochs)]
        if wanted_progress.receipt is not None:
            if path.name == "weights.safetensors":
                assert not store.has_weights(wanted_progress.receipt)
            continue
        loaded = store.load_checkpoint(cell)
        manifest, payload = loaded
        assert manifest == whole.read_model(Manifest, cell.cell_id, "checkpoints", f"{manifest.epoch:06d}.json")
        assert payload == whole.read(cell.cell_id, "checkpoints", f"{manifest.epoch:06d}.pt")
        assert manifest.epoch == (2 if path.name in ("000003.json", "000003.pt") else 3)
    count("store with one byte changed", CHANGED_BYTES)
