"""Find published weights in a folder of the user's or in the Hugging Face cache; download them where that is allowed.

A folder holds one file per model, `<architecture>.<tag>.safetensors`, with the same names and shapes as the hub's file.
Pickles are refused and never downloaded: they can run code when they are opened.
"""

from collections.abc import Iterable
from pathlib import Path

import timm
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from timm.models import PretrainedCfg

from pld_grid.experiment.cell import Cell, Model
from pld_grid.util.atomic_files import is_folder
from pld_grid.util.errors import PldGridError
from pld_grid.util.text import join_names, one_line

SUFFIX = ".safetensors"
_HUB_FILE = f"model{SUFFIX}"
_PICKLES = (".pth", ".pth.tar", ".pt", ".bin", ".pkl")


class WeightsError(PldGridError):
    """Published weights are missing or damaged."""


def weights_name(model: Model) -> str:
    """Return timm's name of a model's published weights, such as `resnet152.gluon_in1k`."""
    assert model.pretrained is not None
    return f"{model.architecture}.{model.pretrained.tag}"


def find_weights(name: str, weights_folder: str | None = None) -> Path | None:
    """Return the file of published weights in the folder, else in the hub's cache; None if neither has it.

    Args:
        name: timm's name, see `weights_name`.
        weights_folder: is searched first.

    Raises:
        WeightsError: the file is not a complete safetensors file.
    """
    if weights_folder is not None:
        file = Path(weights_folder) / f"{name}{SUFFIX}"
        if file.is_file():
            return _check_safetensors(file)
    hub_file = _hub_file(name)
    if hub_file is None:
        return None
    repository, filename, revision = hub_file
    cached = try_to_load_from_cache(repository, filename, revision=revision)
    return _check_safetensors(Path(cached)) if isinstance(cached, str) else None


def required_weights(model: Model, weights_folder: str | None = None) -> Path:
    """Return the file of a model's weights, downloading it if need be. Raise WeightsError if that is impossible."""
    name = weights_name(model)
    file = find_weights(name, weights_folder)
    if file is not None:
        return file
    hub_file = _hub_file(name)
    if hub_file is None or not can_be_fetched(name, weights_folder):
        raise WeightsError(describe_missing([name], weights_folder))
    repository, filename, revision = hub_file
    # timm would accept a pickle where the hub has nothing else.
    try:
        return _check_safetensors(Path(hf_hub_download(repository, filename, revision=revision)))
    except OSError as error:
        raise WeightsError(one_line(f"weights {name}: {repository} gives no {filename}: {error}", 300)) from None


def can_be_fetched(name: str, weights_folder: str | None = None) -> bool:
    """Return whether weights may be downloaded: not if a folder is given, and not offline."""
    return weights_folder is None and not constants.HF_HUB_OFFLINE and _hub_file(name) is not None


def missing_weights(cells: Iterable[Cell], weights_folder: str | None = None) -> list[str]:
    """Return the sorted names of published weights that cells or their teachers need and this machine lacks.

    Raises:
        WeightsError: the folder does not exist or a file in it is damaged.
    """
    if weights_folder is not None and not is_folder(weights_folder):
        raise WeightsError(one_line(f"--weights-dir: no such folder: {weights_folder}"))
    models = [part.student for cell in cells for part in (cell, cell.teacher) if part is not None]
    names = {weights_name(model) for model in models if model.pretrained is not None}
    return sorted(name for name in names if find_weights(name, weights_folder) is None)


def check_weights(cells: Iterable[Cell], weights_folder: str | None = None) -> list[str]:
    """Return the names of published weights that will be downloaded for these cells.

    Raises:
        WeightsError: names all weights that are missing and cannot be downloaded.
    """
    missing = missing_weights(cells, weights_folder)
    unavailable = [name for name in missing if not can_be_fetched(name, weights_folder)]
    if unavailable:
        raise WeightsError(describe_missing(unavailable, weights_folder))
    return missing


def describe_missing(names: Iterable[str], weights_folder: str | None = None) -> str:
    """Describe in one line which weights are missing, where they were searched for, and how to get them."""
    names = sorted(names)
    places = [f"{weights_folder} (as {names[0]}{SUFFIX})"] if weights_folder is not None else []
    places.append(f"the hub's cache {constants.HF_HUB_CACHE}")
    parts = [f"published weights are missing: {join_names(names)}", f"looked in {' and '.join(places)}"]
    if weights_folder is not None:
        files = [Path(weights_folder, f"{name}{suffix}") for name in names for suffix in _PICKLES]
        if pickles := [file.name for file in files if file.is_file()]:
            parts.append(f"refused {join_names(pickles, 3)}: a pickle can run code, save it as safetensors")
    repository = _pretrained_cfg(names[0]).hf_hub_id
    if repository:
        parts.append(f"with internet access, `hf download {repository} {_HUB_FILE}` downloads the first")
    if weights_folder is None and constants.HF_HUB_OFFLINE:
        parts.append("HF_HUB_OFFLINE forbids downloads; --weights-dir names a folder of weights")
    return one_line("; ".join(parts))


def _pretrained_cfg(name: str) -> PretrainedCfg:
    """Return timm's configuration of published weights; an empty one if it has none."""
    return timm.get_pretrained_cfg(name) or PretrainedCfg()


def _hub_file(name: str) -> tuple[str, str, str | None] | None:
    """Return repository, safetensors file and revision of weights on the hub; None if they are not there."""
    config = _pretrained_cfg(name)
    if not config.hf_hub_id:
        return None
    repository, _, revision = config.hf_hub_id.partition("@")
    return repository, str(Path(config.hf_hub_filename or _HUB_FILE).with_suffix(SUFFIX)), revision or None


def _check_safetensors(file: Path) -> Path:
    """Return the file if its safetensors header matches its length; raise WeightsError otherwise."""
    try:
        with safe_open(file, framework="pt"):
            return file
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            one_line(f"weights {file}: not a complete safetensors file (pickles are refused): {error}")
        ) from None
