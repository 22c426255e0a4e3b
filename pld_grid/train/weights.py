"""Where published weights lie: in a folder of the user's, or in the hub's cache, which is filled where that is allowed.

A folder holds one file per model, `<architecture>.<tag>.safetensors`, with the names and shapes that the hub's own
file has. Pickles are refused, and never fetched: they can run code when they are opened.
"""

from collections.abc import Iterable
from pathlib import Path

import timm
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from timm.models import PretrainedCfg

from pld_grid.errors import PldGridError, listing
from pld_grid.files import is_folder
from pld_grid.reading import one_line
from pld_grid.spec import Cell, Model

SUFFIX = ".safetensors"
_HUB_FILE = f"model{SUFFIX}"
_PICKLES = (".pth", ".pth.tar", ".pt", ".bin", ".pkl")


class WeightsError(PldGridError):
    """Published weights are missing or damaged."""


def weights_name(model: Model) -> str:
    """timm's name of a model's published weights, `resnet152.gluon_in1k`."""
    assert model.pretrained is not None
    return f"{model.architecture}.{model.pretrained.tag}"


def find_weights(name: str, weights_folder: str | None = None) -> Path | None:
    """The file of published weights: in the folder, else in the hub's cache; None if it is in neither.

    Args:
        name: timm's, see `weights_name`.

    Raises:
        WeightsError: the file is no whole safetensors file.
    """
    if weights_folder is not None:
        file = Path(weights_folder) / f"{name}{SUFFIX}"
        if file.is_file():
            return _whole(file)
    place = _place(name)
    if place is None:
        return None
    repository, filename, revision = place
    cached = try_to_load_from_cache(repository, filename, revision=revision)
    return _whole(Path(cached)) if isinstance(cached, str) else None


def required_weights(model: Model, weights_folder: str | None = None) -> Path:
    """The file to build a model from, fetched if need be. Raises WeightsError if it may or can not be."""
    name = weights_name(model)
    file = find_weights(name, weights_folder)
    if file is not None:
        return file
    place = _place(name)
    if place is None or not can_be_fetched(name, weights_folder):
        raise WeightsError(describe_missing([name], weights_folder))
    repository, filename, revision = place
    # Not left to timm, which takes a pickle where the hub has nothing else.
    try:
        return _whole(Path(hf_hub_download(repository, filename, revision=revision)))
    except OSError as error:
        raise WeightsError(one_line(f"weights {name}: {repository} gives no {filename}: {error}", 300)) from None


def can_be_fetched(name: str, weights_folder: str | None = None) -> bool:
    """Whether weights may be downloaded when they are needed: not with a folder of one's own, and not offline."""
    return weights_folder is None and not constants.HF_HUB_OFFLINE and _place(name) is not None


def missing_weights(cells: Iterable[Cell], weights_folder: str | None = None) -> list[str]:
    """Names of the published weights that cells or their teachers need and that are not on this machine, sorted.

    Raises WeightsError if the folder does not exist or a file in it is damaged.
    """
    if weights_folder is not None and not is_folder(weights_folder):
        raise WeightsError(one_line(f"--weights-dir: no such folder: {weights_folder}"))
    models = [part.student for cell in cells for part in (cell, cell.teacher) if part is not None]
    names = {weights_name(model) for model in models if model.pretrained is not None}
    return sorted(name for name in names if find_weights(name, weights_folder) is None)


def check_weights(cells: Iterable[Cell], weights_folder: str | None = None) -> list[str]:
    """Names of the published weights that will be fetched for these cells.

    Raises WeightsError, naming all of them, if weights are missing that it may or can not fetch.
    """
    missing = missing_weights(cells, weights_folder)
    lost = [name for name in missing if not can_be_fetched(name, weights_folder)]
    if lost:
        raise WeightsError(describe_missing(lost, weights_folder))
    return missing


def describe_missing(names: Iterable[str], weights_folder: str | None = None) -> str:
    """One line: which weights are missing, where they were looked for, and how to get them."""
    names = sorted(names)
    places = [f"{weights_folder} (as {names[0]}{SUFFIX})"] if weights_folder is not None else []
    places.append(f"the hub's cache {constants.HF_HUB_CACHE}")
    parts = [f"published weights are missing: {listing(names)}", f"looked in {' and '.join(places)}"]
    pickles = [file for name in names for file in _pickles(name, weights_folder)]
    if pickles:
        parts.append(f"refused {listing(pickles, 3)}: a pickle can run code, save it as safetensors")
    repository = _published(names[0]).hf_hub_id
    if repository:
        parts.append(f"where there is internet, `hf download {repository} {_HUB_FILE}` fetches the first")
    if weights_folder is None and constants.HF_HUB_OFFLINE:
        parts.append("HF_HUB_OFFLINE forbids that here; --weights-dir names a folder of weights")
    return one_line("; ".join(parts))


def _pickles(name: str, weights_folder: str | None) -> list[str]:
    files = [Path(weights_folder) / f"{name}{suffix}" for suffix in _PICKLES] if weights_folder is not None else []
    return [file.name for file in files if file.is_file()]


def _published(name: str) -> PretrainedCfg:
    """What timm knows about published weights."""
    return timm.get_pretrained_cfg(name) or PretrainedCfg()


def _place(name: str) -> tuple[str, str, str | None] | None:
    """The hub's repository of published weights, its file of safetensors, and the revision; None if it has none."""
    published = _published(name)
    if not published.hf_hub_id:
        return None
    repository, _, revision = published.hf_hub_id.partition("@")
    return repository, str(Path(published.hf_hub_filename or _HUB_FILE).with_suffix(SUFFIX)), revision or None


def _whole(file: Path) -> Path:
    """The file itself, if its header is safetensors' and promises as many bytes as there are."""
    try:
        with safe_open(file, framework="pt"):
            return file
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            one_line(f"weights {file}: not a whole safetensors file (pickles are refused): {error}")
        ) from None
