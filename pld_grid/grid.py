"""Grid YAML -> entries: every cell that a table needs, with the names that the grid calls it by."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from pld_grid.catalogue import LossInfo
from pld_grid.errors import InputError, listing, nearest
from pld_grid.layout import Layout, default_layout
from pld_grid.profile import Profile
from pld_grid.reading import Document, Path_, read_file
from pld_grid.spec import Cell, Frozen, Loss, Model, Scalar, Seed, is_finite

MAX_CELLS = 2000
AXES = ("teacher", "student", "epochs", "optimizer", "loss", "hyperparameters", "divergence", "standardization", "seed")
Value = StrictBool | StrictInt | StrictFloat | StrictStr
Labels = Mapping[str, Scalar]


def _many(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Names = Annotated[list[StrictStr], BeforeValidator(_many), Field(min_length=1)]
Values = Annotated[list[Value], BeforeValidator(_many), Field(min_length=1)]
Sweep = dict[str, Values]
Sweeps = Annotated[list[Sweep], BeforeValidator(_many), Field(min_length=1)]


class Axes(Frozen):
    """The seven axes of the paper, `seed` and `epochs`; each is a value or a list of values.

    `hyperparameters` belong to their loss: `{kd: {alpha: [0, 0.1]}}`, or a list of such sweeps to move several
    together. `divergence` is the hyperparameter of that name, for the losses that have it.
    """

    teacher: Names | None = None
    student: Names | None = None
    loss: Names | None = None
    hyperparameters: dict[str, Sweeps] | None = None
    optimizer: Names | None = None
    standardization: Names | None = None
    divergence: Names | None = None
    seed: Annotated[list[Seed], BeforeValidator(_many), Field(min_length=1)] | None = None
    epochs: (
        Annotated[list[Annotated[StrictInt, Field(ge=1, le=100_000)]], BeforeValidator(_many), Field(min_length=1)]
        | None
    ) = None


class Block(Axes):
    """One product of axes. A `teacher` block stands for the teachers' own cells; a `baseline` block for the cell
    that the table's differences refer to, which gets no row."""

    role: Literal["student", "teacher", "baseline"] = "student"
    labels: dict[str, Scalar] = {}


class GridFile(Frozen):
    """The YAML of a grid."""

    description: str = ""
    defaults: Axes = Axes()
    cells: Annotated[list[Block], BeforeValidator(_many), Field(min_length=1)]
    exclude: list[dict[str, Values]] = []
    table: Layout | None = None


@dataclass(frozen=True)
class Entry:
    """One use of a cell by a table: the cell, and the labels that the grid gives it."""

    labels: Labels
    cell: Cell
    role: Literal["student", "teacher", "baseline"]
    block: int


@dataclass(frozen=True)
class Grid:
    """An expanded grid under a profile."""

    name: str
    document: Document
    profile: Profile
    entries: tuple[Entry, ...]
    layout: Layout

    def cells(self) -> Iterator[Cell]:
        """Every cell needed, teachers included, repetitions included."""
        for entry in self.entries:
            yield entry.cell
            if entry.cell.teacher is not None:
                yield entry.cell.teacher


def load_grid(path: str | Path, profile: Profile, *, seeds: int | None = None, max_cells: int = MAX_CELLS) -> Grid:
    """Reads, checks and expands a grid under a profile.

    `seeds` replaces every block's seeds by 0 .. seeds - 1. Raises InputError with file, line, key path and the
    nearest valid name; also for a grid that expands to nothing or to more than `max_cells`.
    """
    document = read_file(path)
    return expand(document, Path(path).stem, profile, seeds=seeds, max_cells=max_cells)


def expand(
    document: Document, name: str, profile: Profile, *, seeds: int | None = None, max_cells: int = MAX_CELLS
) -> Grid:
    """Expands a read grid document; see `load_grid`."""
    file = document.parse(GridFile)
    expanded = _Expansion(document, file, profile, seeds)
    size = sum(expanded.size(i) for i in range(len(file.cells)))
    if size > max_cells:
        raise document.error(
            ("cells",), f"expands to {size} cells, more than the limit of {max_cells} (--max-cells raises it)"
        )
    entries = _without_excluded(document, file, list(_unique(expanded.entries())))
    if not entries:
        raise document.error(("exclude",) if file.exclude else ("cells",), "the grid expands to no cells")
    layout = file.table or default_layout(_varying(entries))
    _check_layout(document, layout, entries)
    return Grid(name, document, profile, tuple(entries), layout)


class _Expansion:
    """One pass over a grid's blocks; every error names the key that caused it."""

    def __init__(self, document: Document, file: GridFile, profile: Profile, seeds: int | None) -> None:
        self.document, self.file, self.profile = document, file, profile
        self.seeds = seeds
        self.students: dict[str, Model] = {}
        self.teachers: dict[str, Cell] = {}

    def error(self, block: int, axis: str, message: str, *inner: str | int) -> InputError:
        for path in (("cells", block, axis), ("cells", axis), ("defaults", axis)):
            if path in self.document.lines:
                return self.document.error((*path, *inner) if (*path, *inner) in self.document.lines else path, message)
        at: Path_ = ("cells", block) if ("cells", block) in self.document.lines else ("cells",)
        return self.document.error(at, message)

    def values(self, block: int, axis: str, fallback: Any = None) -> list[Any]:
        """The block's values of an axis, the grid's defaults, or `[fallback]`."""
        own, shared = getattr(self.file.cells[block], axis), getattr(self.file.defaults, axis)
        found = own if own is not None else shared
        return [fallback] if found is None else list(found)

    def seed_values(self, block: int) -> list[int]:
        return list(range(self.seeds)) if self.seeds is not None else self.values(block, "seed", 0)

    def sweeps(self, block: int, loss: str) -> list[Sweep]:
        own = (self.file.cells[block].hyperparameters or {}).get(loss)
        return own or (self.file.defaults.hyperparameters or {}).get(loss) or [{}]

    def loss_info(self, block: int, name: str) -> LossInfo:
        losses = self.profile.catalogue.losses
        if name not in losses:
            raise self.error(block, "loss", f'unknown loss "{name}"; valid: {listing(losses)}{nearest(name, losses)}')
        return losses[name]

    def size(self, block: int) -> int:
        """How many combinations a block has, counted without building them."""
        if self.file.cells[block].role == "teacher":
            return len(self.values(block, "teacher"))
        losses = 0
        for name in self.values(block, "loss"):
            if name is None:
                raise self.error(block, "loss", "this block names no loss")
            info = self.loss_info(block, name)
            points = sum(math.prod(len(v) for v in sweep.values()) for sweep in self.sweeps(block, name))
            points *= len(self.values(block, "divergence")) if "divergence" in info.defaults else 1
            losses += points * (len(self.values(block, "standardization")) if info.uses_teacher else 1)
        axes = [self.values(block, axis) for axis in ("teacher", "student", "epochs", "optimizer")]
        return losses * math.prod(len(v) for v in axes) * len(self.seed_values(block))

    def entries(self) -> Iterator[Entry]:
        for index, block in enumerate(self.file.cells):
            if block.role == "teacher":
                yield from self.teacher_entries(index, block)
            else:
                yield from self.student_entries(index, block)

    def teacher_entries(self, index: int, block: Block) -> Iterator[Entry]:
        for name in self.values(index, "teacher"):
            if name is None:
                raise self.error(index, "teacher", "a teacher block needs teacher names")
            labels = {**block.labels, "teacher": name, "loss": "teacher"}
            yield Entry(labels, self.teacher(index, name), "teacher", index)

    def student_entries(self, index: int, block: Block) -> Iterator[Entry]:
        self.check_hyperparameters(index)
        for teacher, student, epochs, optimizer in itertools.product(
            self.values(index, "teacher"),
            self.values(index, "student"),
            self.values(index, "epochs", 100),
            self.values(index, "optimizer", self.profile.file.optimizer),
        ):
            if student is None:
                raise self.error(index, "student", "this block names no student")
            for loss, seed in itertools.product(self.losses(index), self.seed_values(index)):
                info = self.profile.catalogue.losses[loss.name]
                if info.uses_teacher and teacher is None:
                    raise self.error(index, "teacher", f"loss {loss.name} needs a teacher, this block names none")
                labels: dict[str, Scalar] = {**block.labels, "student": student, "epochs": epochs}
                labels |= {"optimizer": optimizer, "loss": loss.name, "standardization": loss.standardization}
                labels |= {**loss.hyperparameters, "seed": seed}
                if teacher is not None:
                    labels["teacher"] = teacher
                cell = self.cell(index, teacher if info.uses_teacher else None, student, epochs, optimizer, loss, seed)
                yield Entry(labels, cell, block.role, index)

    def cell(
        self, block: int, teacher: str | None, student: str, epochs: int, optimizer: str, loss: Loss, seed: int
    ) -> Cell:
        try:
            chosen = self.profile.optimizer(optimizer)
        except ValueError as error:
            raise self.error(block, "optimizer", str(error)) from None
        return Cell(
            dataset=self.profile.dataset,
            recipe=self.profile.recipe,
            teacher=None if teacher is None else self.teacher(block, teacher),
            student=self.student(block, student),
            loss=loss,
            optimizer=chosen,
            epochs=self.profile.epochs(epochs),
            seed=seed,
        )

    def student(self, block: int, name: str) -> Model:
        if name not in self.students:
            try:
                self.students[name] = self.profile.student(name)
            except ValueError as error:
                raise self.error(block, "student", str(error)) from None
        return self.students[name]

    def teacher(self, block: int, name: str) -> Cell:
        if name not in self.teachers:
            try:
                self.teachers[name] = self.profile.teacher(name)
            except ValueError as error:
                raise self.error(block, "teacher", str(error)) from None
        return self.teachers[name]

    def check_hyperparameters(self, block: int) -> None:
        """A sweep for a loss that the block does not use is a mistake; in the shared defaults it is not."""
        losses = self.values(block, "loss")
        for name in self.file.cells[block].hyperparameters or {}:
            if name not in losses:
                raise self.error(
                    block, "hyperparameters", f'"{name}" is no loss of this block ({listing(losses)})'
                    f"{nearest(name, losses)}", name,
                )  # fmt: skip
        for name in self.file.defaults.hyperparameters or {}:
            if name not in self.profile.catalogue.losses:
                known = self.profile.catalogue.losses
                raise self.document.error(
                    ("defaults", "hyperparameters", name),
                    f'unknown loss "{name}"; valid: {listing(known)}{nearest(name, known)}',
                )

    def losses(self, block: int) -> Iterator[Loss]:
        for name in self.values(block, "loss"):
            info = self.loss_info(block, name)
            for given in self.hyperparameters(block, info):
                for standardization in self.standardizations(block, info):
                    yield Loss(name=name, hyperparameters=given, standardization=standardization)

    def hyperparameters(self, block: int, info: LossInfo) -> Iterator[dict[str, Scalar]]:
        divergences = self.values(block, "divergence") if "divergence" in info.defaults else [None]
        for number, sweep in enumerate(self.sweeps(block, info.name)):
            for point in itertools.product(*sweep.values()):
                for divergence in divergences:
                    given = dict(zip(sweep, point, strict=True))
                    if divergence is not None:
                        given["divergence"] = divergence
                    yield self.resolve(block, info, number, given)

    def resolve(self, block: int, info: LossInfo, number: int, given: dict[str, Scalar]) -> dict[str, Scalar]:
        for key, value in given.items():
            if key not in info.defaults:
                valid = listing(info.defaults) or "none"
                raise self.sweep_error(
                    block, info, number, key,
                    f'loss {info.name} has no hyperparameter "{key}"; valid: {valid}{nearest(key, info.defaults)}',
                )  # fmt: skip
            if not is_finite(value):
                raise self.sweep_error(block, info, number, key, f"{value} is not a finite number")
        try:
            return info.resolve(given)
        except ValueError as error:
            key = next((k for k in given if str(k) in str(error)), "")
            raise self.sweep_error(block, info, number, key, str(error)) from None

    def sweep_error(self, block: int, info: LossInfo, number: int, key: str, message: str) -> InputError:
        if key == "divergence" and self.values(block, "divergence") != [None]:
            return self.error(block, "divergence", message)
        own = info.name in (self.file.cells[block].hyperparameters or {})
        base: Path_ = ("cells", block) if own else ("defaults",)
        if own and base not in self.document.lines:
            base = ("cells",)
        for path in ((info.name, number, key), (info.name, key), (info.name,)):
            full = (*base, "hyperparameters", *path)
            if full in self.document.lines:
                return self.document.error(full, message)
        return self.error(block, "loss", message)

    def standardizations(self, block: int, info: LossInfo) -> list[Any]:
        if not info.uses_teacher:
            return ["none"]
        values = self.values(block, "standardization", "none")
        for value in values:
            if value not in info.standardizations:
                raise self.error(
                    block, "standardization",
                    f'unknown standardization "{value}" for {info.name}; valid: {listing(info.standardizations)}'
                    f"{nearest(value, info.standardizations)}",
                )  # fmt: skip
        return values


def _unique(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Drops repetitions, which sweeps over an axis that some losses do not have produce."""
    seen: set[tuple[Any, ...]] = set()
    for entry in entries:
        key = (entry.role, entry.cell.cell_id, tuple(sorted((k, str(v)) for k, v in entry.labels.items())))
        if key not in seen:
            seen.add(key)
            yield entry


def matches(labels: Labels, where: Mapping[str, Any]) -> bool:
    """Whether every label in `where` has that value, or one of those values."""
    return all(
        k in labels and labels[k] in (v if isinstance(v, list) else [v]) for k, v in where.items()
    )  # fmt: skip


def _label_names(entries: list[Entry]) -> set[str]:
    return {name for entry in entries for name in entry.labels}


def _without_excluded(document: Document, file: GridFile, entries: list[Entry]) -> list[Entry]:
    for number, rule in enumerate(file.exclude):
        at: Path_ = ("exclude", number)
        _check_labels(document, at, rule, _label_names(entries))
        kept = [e for e in entries if not matches(e.labels, rule)]
        if len(kept) == len(entries):
            raise document.error(at, "excludes nothing")
        entries = kept
    return entries


def _check_labels(document: Document, at: Path_, names: Any, valid: set[str]) -> None:
    for name in names:
        if name not in valid:
            path = (*at, name) if (*at, name) in document.lines else at
            raise document.error(
                path, f'"{name}" is no axis or label of this grid; valid: {listing(valid, 20)}{nearest(name, valid)}'
            )


def _varying(entries: list[Entry]) -> list[str]:
    """The labels that tell entries apart, seeds aside."""
    names = [n for e in entries for n in e.labels]
    ordered = [n for n in dict.fromkeys(names) if n != "seed"]
    return [n for n in ordered if len({str(e.labels.get(n)) for e in entries}) > 1] or ["student"]


def _check_layout(document: Document, layout: Layout, entries: list[Entry]) -> None:
    valid = _label_names(entries)
    base: Path_ = ("table",)
    _check_labels(document, (*base, "rows"), layout.rows, valid)
    for number, column in enumerate(layout.columns):
        at = (*base, "columns", number)
        _check_labels(document, (*at, "axis"), column.axes, valid)
        _check_labels(document, (*at, "where"), column.where, valid)
        _check_labels(document, (*at, "only"), column.only, valid)
        for axis in column.axes:
            if column.is_value is False and axis not in layout.rows:
                raise document.error((*at, "axis"), f'"{axis}" is not among the rows: {listing(layout.rows)}')
    for number, row in enumerate(layout.difference_rows):
        for side, where in enumerate(row.minus):
            _check_labels(document, (*base, "difference_rows", number, "minus", side), where, valid)


__all__ = ["AXES", "MAX_CELLS", "Entry", "Grid", "Labels", "expand", "load_grid", "matches"]
