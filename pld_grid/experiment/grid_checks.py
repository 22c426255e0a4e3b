"""Check what expanding a grid cannot show: names in axes that no cell uses, and keys that are not read."""

from collections.abc import Iterable, Mapping
from typing import Any

from pld_grid.experiment.grid_blocks import GridBlocks
from pld_grid.experiment.grid_schema import Sweep
from pld_grid.experiment.registry import LossInfo
from pld_grid.util.strict_yaml import Path_
from pld_grid.util.text import join_names, nearest, unknown, valid_names


def check_blocks(blocks: GridBlocks) -> None:
    """Raise InputError at the first key or name that is wrong."""
    _check_defaults(blocks)
    for number, block in enumerate(blocks.file.cells):
        if block.role == "teacher":
            unread = sorted(block.model_fields_set - {"role", "teacher", "labels"})
            if unread:
                message = "a teacher block takes no such key: how teachers are made is the profile's"
                raise blocks.error(number, unread[0], message)
            continue
        _check_hyperparameters(blocks, number)
        _check_standardizations(blocks, number)
        _check_divergences(blocks, number)
        for name in blocks.values(number, "teacher"):
            if name is not None:
                blocks.resolve(number, "teacher", name)


def _check_defaults(blocks: GridBlocks) -> None:
    """Check that every sweep in the shared defaults fits its loss, whether or not a block uses it."""
    losses = blocks.profile.registry.losses
    for name, sweeps in (blocks.file.defaults.hyperparameters or {}).items():
        path: Path_ = ("defaults", "hyperparameters", name)
        if name not in losses:
            raise blocks.document.error(path, unknown("loss", name, losses))
        _check_sweeps(blocks, path, losses[name], sweeps)


def _check_hyperparameters(blocks: GridBlocks, block: int) -> None:
    """Check a block's own sweeps. One for a loss that the block does not use is an error, unlike in the defaults."""
    losses = [name for name in blocks.values(block, "loss") if name is not None]
    for name, sweeps in (blocks.file.cells[block].hyperparameters or {}).items():
        if name not in losses:
            message = f'"{name}" is no loss of this block ({join_names(losses)}){nearest(name, losses)}'
            raise blocks.error(block, "hyperparameters", message, name)
        path = (*blocks.document.locate("cells", block), "hyperparameters", name)
        _check_sweeps(blocks, path, blocks.loss(block, name), sweeps)
    for name in losses:
        twice = blocks.divergences(block, blocks.loss(block, name)) != [None]
        if twice and any("divergence" in sweep for sweep in blocks.sweeps(block, name)):
            raise blocks.error(block, "divergence", f"also among the hyperparameters of {name}; give it once")


def _check_sweeps(blocks: GridBlocks, base: Path_, info: LossInfo, sweeps: Iterable[Sweep]) -> None:
    """Raise InputError at the first key that the loss does not have, or value in a list that it does not accept."""
    document = blocks.document
    for number, sweep in enumerate(sweeps):
        for key, values in sweep.items():
            path = document.locate(*base, number, key)
            if path[-1] != key:
                # A single sweep may be written without a list.
                path = document.locate(*base, key)
            if key not in info.defaults:
                valid = valid_names(key, info.defaults) or "none"
                raise document.error(path, f'loss {info.name} has no hyperparameter "{key}"; valid: {valid}')
            for value in values:
                if error := _resolve_error(info, {key: value}):
                    raise document.error(document.locate(*path, value=value), error)


def _check_standardizations(blocks: GridBlocks, block: int) -> None:
    """Check that some loss has each standardization, even if this block's losses ignore it."""
    valid = {name for info in blocks.profile.registry.losses.values() for name in info.standardizations}
    for value in blocks.values(block, "standardization", "none"):
        if value not in valid:
            raise blocks.unknown_standardization(block, value, valid)


def _check_divergences(blocks: GridBlocks, block: int) -> None:
    """Check that some loss has each divergence, even if this block's losses ignore it."""
    losses = [info for info in blocks.profile.registry.losses.values() if "divergence" in info.defaults]
    for value in blocks.values(block, "divergence"):
        errors = [] if value is None else [_resolve_error(info, {"divergence": value}) for info in losses]
        if value is not None and all(errors):
            raise blocks.error(block, "divergence", errors[0] if errors else "no loss has one", value=value)


def _resolve_error(info: LossInfo, given: Mapping[str, Any]) -> str:
    """Return why a loss refuses hyperparameters; empty if it accepts them."""
    try:
        info.resolve(given)
    except ValueError as error:
        return str(error)
    return ""
