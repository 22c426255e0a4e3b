"""The blocks of a grid under a profile: values of their axes, resolved names, and errors that name the key."""

from collections.abc import Collection, Sequence
from typing import Any, Literal

from pld_grid.experiment.grid_schema import GridFile, Sweep
from pld_grid.experiment.profile import Profile
from pld_grid.experiment.registry import LossInfo
from pld_grid.util.errors import InputError
from pld_grid.util.strict_yaml import Document
from pld_grid.util.text import unknown, valid_names


class GridBlocks:
    """Read access to the blocks of a grid, each by its index.

    Args:
        document: the grid's YAML, whose lines the errors name.
        file: the same, parsed.
        profile: resolves the names.
        seeds: replaces every block's seeds by 0 .. seeds - 1, unless None.
    """

    def __init__(self, document: Document, file: GridFile, profile: Profile, seeds: int | None) -> None:
        self.document, self.file, self.profile, self.seeds = document, file, profile, seeds
        self._resolved: dict[tuple[str, Any], Any] = {}

    def error(self, block: int, axis: str, message: str, *inner: str | int, value: object = None) -> InputError:
        """Return an error about an axis of a block, or about `value` in its list."""
        for path in (("cells", block, axis), ("cells", axis), ("defaults", axis)):
            if path in self.document.lines:
                return self.document.error(self.document.locate(*path, *inner, value=value), message)
        return self.document.error(self.document.locate("cells", block), message)

    def values(self, block: int, axis: str, fallback: Any = None) -> list[Any]:
        """Return the block's values of an axis, or the grid's defaults, or `[fallback]`."""
        own, shared = getattr(self.file.cells[block], axis), getattr(self.file.defaults, axis)
        values = own if own is not None else shared
        return [fallback] if values is None else list(values)

    def seed_values(self, block: int) -> Sequence[int]:
        """Return the block's seeds."""
        return range(self.seeds) if self.seeds is not None else self.values(block, "seed", 0)

    def sweeps(self, block: int, loss: str) -> list[Sweep]:
        """Return the block's sweeps over the hyperparameters of a loss, or the grid's, or one without any."""
        own = (self.file.cells[block].hyperparameters or {}).get(loss)
        return own or (self.file.defaults.hyperparameters or {}).get(loss) or [{}]

    def divergences(self, block: int, info: LossInfo) -> list[Any]:
        """Return the block's divergences for a loss; `[None]` stands for the loss's own default."""
        return self.values(block, "divergence") if "divergence" in info.defaults else [None]

    def standardizations(self, block: int, info: LossInfo) -> list[Any]:
        """Return the block's standardizations for a loss. Raises InputError for one that the loss does not have."""
        if not info.uses_teacher:
            return ["none"]
        values = self.values(block, "standardization", "none")
        for value in values:
            if value not in info.standardizations:
                raise self.unknown_standardization(block, value, info.standardizations, f" for {info.name}")
        return values

    def unknown_standardization(self, block: int, value: str, valid: Collection[str], loss: str = "") -> InputError:
        """Return the error about a standardization that is not among the valid ones."""
        message = f'unknown standardization "{value}"{loss}; valid: {valid_names(value, valid)}'
        return self.error(block, "standardization", message, value=value)

    def loss(self, block: int, name: str | None) -> LossInfo:
        """Return a loss. Raises InputError for an unknown one, or none."""
        losses = self.profile.registry.losses
        if name is None:
            raise self.error(block, "loss", "this block names no loss")
        if name not in losses:
            raise self.error(block, "loss", unknown("loss", name, losses), value=name)
        return losses[name]

    def resolve(self, block: int, axis: Literal["student", "teacher", "optimizer", "epochs"], name: Any) -> Any:
        """Return what a name of this axis stands for in the profile. Raises InputError for an unknown one."""
        if (axis, name) not in self._resolved:
            try:
                self._resolved[axis, name] = getattr(self.profile, axis)(name)
            except ValueError as error:
                raise self.error(block, axis, str(error), value=name) from None
        return self._resolved[axis, name]
