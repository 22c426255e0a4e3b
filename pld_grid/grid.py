"""Grid YAML -> entries: every cell that a table needs, with the names that the grid calls it by."""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pld_grid.catalogue import LossInfo
from pld_grid.errors import InputError, listing, nearest
from pld_grid.gridfile import AXES, Block, GridFile, Sweep
from pld_grid.layout import Layout, check_labels, default_layout
from pld_grid.profile import Profile
from pld_grid.reading import Document, Path_, check_name, one_line, read_file, show
from pld_grid.spec import Cell, Loss, Model, Optimizer, Scalar

MAX_CELLS = 2000
MAX_SEEDS = 10**15  # far beyond what fits a plan, and still countable
Labels = Mapping[str, Scalar]


@dataclass(frozen=True)
class Entry:
    """One use of a cell by a table: the cell, and the labels that the grid gives it."""

    labels: Labels
    cell: Cell
    role: Literal["student", "teacher", "baseline"]
    block: int


@dataclass(frozen=True)
class Grid:
    """An expanded grid under a profile; `seeds` replaced its own, if that is not None."""

    name: str
    document: Document
    profile: Profile
    entries: tuple[Entry, ...]
    layout: Layout
    seeds: int | None = None

    def cells(self) -> Iterator[Cell]:
        """Every cell needed, teachers included, repetitions included."""
        for entry in self.entries:
            yield entry.cell
            if entry.cell.teacher is not None:
                yield entry.cell.teacher

    def only(self, cell_ids: Collection[str]) -> "Grid":
        """The grid narrowed to some of its cells and their teachers: for running, as its table has holes."""
        wanted = frozenset(cell_ids)
        kept = [entry for entry in self.entries if entry.cell.cell_id in wanted]
        there = {entry.cell.cell_id for entry in kept}
        for entry in self.entries:
            teacher = entry.cell.teacher
            if teacher is not None and teacher.cell_id in wanted - there:
                there.add(teacher.cell_id)
                labels = {"teacher": entry.labels["teacher"], "loss": "teacher"}
                kept.append(Entry(labels, teacher, "teacher", entry.block))
        return replace(self, entries=tuple(kept))


def load_grid(path: str | Path, profile: Profile, *, seeds: int | None = None, max_cells: int = MAX_CELLS) -> Grid:
    """Reads, checks and expands a grid under a profile.

    `seeds` replaces every block's seeds by 0 .. seeds - 1. Raises InputError with file, line, key path and the
    nearest valid name; also for a grid that expands to nothing or to more than `max_cells`.
    """
    document = read_file(path)
    try:
        name = check_name(Path(path).stem)
    except ValueError as error:
        raise InputError(one_line(f"{path}: a grid is called by its file's name; {error}")) from None
    return expand(document, name, profile, seeds=seeds, max_cells=max_cells)


def expand(
    document: Document, name: str, profile: Profile, *, seeds: int | None = None, max_cells: int = MAX_CELLS
) -> Grid:
    """Expands a read grid document; see `load_grid`."""
    if seeds is not None and not 1 <= seeds <= MAX_SEEDS:
        bound = "at least 1" if seeds < 1 else f"at most {MAX_SEEDS}"
        raise InputError(f"--seeds: must be {bound}, not {seeds}")
    file = document.parse(GridFile)
    expanded = _Expansion(document, file, profile, seeds)
    expanded.check()
    size = sum(expanded.size(i) for i in range(len(file.cells)))
    if size > max_cells:
        raise document.error(
            ("cells",), f"expands to {size} cells, more than the limit of {max_cells} (--max-cells raises it)"
        )
    entries = _without_excluded(document, file, list(_unique(expanded.entries())), seeds)
    layout = file.table or default_layout(_varying(entries))
    losses = {*profile.catalogue.losses, *(str(entry.labels["loss"]) for entry in entries)}
    layout.check(document, _label_names(entries), losses)
    return Grid(name, document, profile, tuple(entries), layout, seeds)


class _Expansion:
    """One pass over a grid's blocks; every error names the key that caused it."""

    def __init__(self, document: Document, file: GridFile, profile: Profile, seeds: int | None) -> None:
        self.document, self.file, self.profile = document, file, profile
        self.seeds = seeds
        self.students: dict[str, Model] = {}
        self.teachers: dict[str, Cell] = {}
        self.optimizers: dict[str, Optimizer] = {}

    def error(self, block: int, axis: str, message: str, *inner: str | int, value: object = None) -> InputError:
        """An error about an axis of a block, or about `value` in its list."""
        for path in (("cells", block, axis), ("cells", axis), ("defaults", axis)):
            if path in self.document.lines:
                return self.document.error(self.document.at(*path, *inner, value=value), message)
        return self.document.error(self.document.at("cells", block), message)

    def values(self, block: int, axis: str, fallback: Any = None) -> list[Any]:
        """The block's values of an axis, the grid's defaults, or `[fallback]`."""
        own, shared = getattr(self.file.cells[block], axis), getattr(self.file.defaults, axis)
        found = own if own is not None else shared
        return [fallback] if found is None else list(found)

    def seed_values(self, block: int) -> Sequence[int]:
        return range(self.seeds) if self.seeds is not None else self.values(block, "seed", 0)

    def sweeps(self, block: int, loss: str) -> list[Sweep]:
        own = (self.file.cells[block].hyperparameters or {}).get(loss)
        return own or (self.file.defaults.hyperparameters or {}).get(loss) or [{}]

    def loss_info(self, block: int, name: str) -> LossInfo:
        losses = self.profile.catalogue.losses
        if name not in losses:
            message = f'unknown loss "{name}"; valid: {listing(losses)}{nearest(name, losses)}'
            raise self.error(block, "loss", message, value=name)
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
            self.check_labels(index, block, AXES)
            yield Entry(labels, self.teacher(index, name), "teacher", index)

    def student_entries(self, index: int, block: Block) -> Iterator[Entry]:
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
                labels: dict[str, Scalar] = {"student": student, "epochs": epochs}
                labels |= {"optimizer": optimizer, "loss": loss.name, "standardization": loss.standardization}
                labels |= {**loss.hyperparameters, "seed": seed}
                if teacher is not None:
                    labels["teacher"] = teacher
                self.check_labels(index, block, labels)
                labels = {**block.labels, **labels}
                cell = self.cell(index, teacher if info.uses_teacher else None, student, epochs, optimizer, loss, seed)
                yield Entry(labels, cell, block.role, index)

    def cell(
        self, block: int, teacher: str | None, student: str, epochs: int, optimizer: str, loss: Loss, seed: int
    ) -> Cell:
        return Cell(
            dataset=self.profile.dataset,
            recipe=self.profile.recipe,
            teacher=None if teacher is None else self.teacher(block, teacher),
            student=self.student(block, student),
            loss=loss,
            optimizer=self.optimizer(block, optimizer),
            epochs=self.profile.epochs(epochs),
            seed=seed,
        )

    def student(self, block: int, name: str) -> Model:
        if name not in self.students:
            try:
                self.students[name] = self.profile.student(name)
            except ValueError as error:
                raise self.error(block, "student", str(error), value=name) from None
        return self.students[name]

    def teacher(self, block: int, name: str) -> Cell:
        if name not in self.teachers:
            try:
                self.teachers[name] = self.profile.teacher(name)
            except ValueError as error:
                raise self.error(block, "teacher", str(error), value=name) from None
        return self.teachers[name]

    def optimizer(self, block: int, name: str) -> Optimizer:
        if name not in self.optimizers:
            try:
                self.optimizers[name] = self.profile.optimizer(name)
            except ValueError as error:
                raise self.error(block, "optimizer", str(error), value=name) from None
        return self.optimizers[name]

    def check(self) -> None:
        """What a product of valid axes cannot show: names that it leaves out, keys that it does not read."""
        self.check_defaults()
        for index, block in enumerate(self.file.cells):
            if block.role == "teacher":
                surplus = sorted(block.model_fields_set - {"role", "teacher", "labels"})
                if surplus:
                    raise self.error(
                        index, surplus[0], "a teacher block takes no such key: how teachers are made is the profile's"
                    )
                continue
            self.check_hyperparameters(index)
            self.check_values(index)
            for name in self.values(index, "teacher"):
                if name is not None:
                    self.teacher(index, name)

    def check_defaults(self) -> None:
        """Every sweep in the shared defaults must fit its loss, used or not."""
        known = self.profile.catalogue.losses
        for name, sweeps in (self.file.defaults.hyperparameters or {}).items():
            at: Path_ = ("defaults", "hyperparameters", name)
            if name not in known:
                raise self.document.error(at, f'unknown loss "{name}"; valid: {listing(known)}{nearest(name, known)}')
            for number, sweep in enumerate(sweeps):
                for key, values in sweep.items():
                    for value in values:
                        self.check_hyperparameter(at, known[name], number, key, value)

    def check_hyperparameters(self, block: int) -> None:
        """A sweep for a loss that the block does not use is a mistake; in the shared defaults it is not."""
        losses = [name for name in self.values(block, "loss") if name is not None]
        for name, sweeps in (self.file.cells[block].hyperparameters or {}).items():
            if name not in losses:
                message = f'"{name}" is no loss of this block ({listing(losses)}){nearest(name, losses)}'
                raise self.error(block, "hyperparameters", message, name)
            info = self.loss_info(block, name)
            base = self.document.at("cells", block)
            for number, sweep in enumerate(sweeps):
                for key, values in sweep.items():
                    for value in values:
                        self.check_hyperparameter((*base, "hyperparameters", name), info, number, key, value)
        for name in losses:
            twice = self.values(block, "divergence") != [None] and "divergence" in self.loss_info(block, name).defaults
            if twice and any("divergence" in sweep for sweep in self.sweeps(block, name)):
                raise self.error(block, "divergence", f"also among the hyperparameters of {name}; give it once")

    def check_hyperparameter(self, base: Path_, info: LossInfo, number: int, key: str, value: Scalar) -> None:
        """Raises InputError at the key, or at the value in its list, unless the loss accepts it."""
        at = self.document.at(*base, number, key)
        if at[-1] != key:
            at = self.document.at(*base, key)
        if key not in info.defaults:
            valid = f"{listing(info.defaults) or 'none'}{nearest(key, info.defaults)}"
            raise self.document.error(at, f'loss {info.name} has no hyperparameter "{key}"; valid: {valid}')
        try:
            info.resolve({key: value})
        except ValueError as error:
            raise self.document.error(self.document.at(*at, value=value), str(error)) from None

    def check_values(self, block: int) -> None:
        """Standardizations and divergences must be some loss's, even where this block's losses ignore them."""
        infos = self.profile.catalogue.losses.values()
        standardizations = {name for info in infos for name in info.standardizations}
        for value in self.values(block, "standardization", "none"):
            if value not in standardizations:
                raise self.unknown_standardization(block, value, standardizations)
        for value in self.values(block, "divergence"):
            errors = []
            for info in infos:
                try:
                    if value is None or ("divergence" in info.defaults and info.resolve({"divergence": value})):
                        break
                except ValueError as error:
                    errors.append(str(error))
            else:
                raise self.error(block, "divergence", errors[0] if errors else "no loss has one", value=value)

    def check_labels(self, index: int, block: Block, taken: Collection[str]) -> None:
        for name in block.labels:
            if name in taken:
                raise self.error(index, "labels", f'"{name}" is an axis of this block already', name)

    def losses(self, block: int) -> Iterator[Loss]:
        for name in self.values(block, "loss"):
            info = self.loss_info(block, name)
            for given in self.hyperparameters(block, info):
                for standardization in self.standardizations(block, info):
                    yield Loss(name=name, hyperparameters=given, standardization=standardization)

    def hyperparameters(self, block: int, info: LossInfo) -> Iterator[dict[str, Scalar]]:
        divergences = self.values(block, "divergence") if "divergence" in info.defaults else [None]
        for sweep in self.sweeps(block, info.name):
            for *point, divergence in itertools.product(*sweep.values(), divergences):
                given = dict(zip(sweep, point, strict=True))
                if divergence is not None:
                    given["divergence"] = divergence
                try:
                    yield info.resolve(given)
                except ValueError as error:
                    # Each value fits alone (see `check`), so only their combination can be wrong.
                    raise self.error(block, "hyperparameters", str(error), info.name) from None

    def standardizations(self, block: int, info: LossInfo) -> list[Any]:
        if not info.uses_teacher:
            return ["none"]
        values = self.values(block, "standardization", "none")
        for value in values:
            if value not in info.standardizations:
                raise self.unknown_standardization(block, value, info.standardizations, f" for {info.name}")
        return values

    def unknown_standardization(self, block: int, value: str, valid: Collection[str], of: str = "") -> InputError:
        message = f'unknown standardization "{value}"{of}; valid: {listing(valid)}{nearest(value, valid)}'
        return self.error(block, "standardization", message, value=value)


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
    return all(k in labels and labels[k] in (v if isinstance(v, list) else [v]) for k, v in where.items())


def _label_names(entries: list[Entry]) -> set[str]:
    return {name for entry in entries for name in entry.labels}


def _without_excluded(document: Document, file: GridFile, entries: list[Entry], seeds: int | None) -> list[Entry]:
    names = _label_names(entries)
    for number, rule in enumerate(file.exclude):
        at: Path_ = ("exclude", number)
        check_labels(document, at, rule, names)
        kept = [e for e in entries if not matches(e.labels, rule)]
        # `--seeds` may leave out the very seeds that a rule is about.
        if len(kept) == len(entries) and not (seeds is not None and "seed" in rule):
            raise _excludes_nothing(document, at, rule, entries)
        if not kept:
            raise document.error(at, "excludes everything: the grid expands to no cells")
        entries = kept
    return entries


def _excludes_nothing(document: Document, at: Path_, rule: Mapping[str, Any], entries: list[Entry]) -> InputError:
    for name, values in rule.items():
        present = {entry.labels[name] for entry in entries if name in entry.labels}
        for value in values:
            if value not in present:
                valid = [str(v) for v in present]
                message = f"no cell has {name} {show(value)}; it is: {listing(valid)}{nearest(value, valid)}"
                return document.error(document.at(*at, name, value=value), message)
    return document.error(at, "excludes nothing: no cell is all of this")


def _varying(entries: list[Entry]) -> list[str]:
    """The labels that tell entries apart, seeds aside."""
    names = [n for e in entries for n in e.labels]
    ordered = [n for n in dict.fromkeys(names) if n != "seed"]
    return [n for n in ordered if len({str(e.labels.get(n)) for e in entries}) > 1] or ["student"]


__all__ = ["AXES", "MAX_CELLS", "Entry", "Grid", "Labels", "expand", "load_grid", "matches"]
