"""Published weights for tests, which run offline: timm's own models with weights made here, in the hub's layout."""

import hashlib
from pathlib import Path

import safetensors.torch
import timm
import torch
from torch import nn


def published_model(architecture: str) -> nn.Module:
    """Return a model of 1,000 classes; every call returns the same weights, which `write_to_folder` writes."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model: nn.Module = timm.create_model(architecture, num_classes=1000)
    return model


def write_to_folder(folder: Path, name: str, model: nn.Module | None = None) -> Path:
    """Write `<architecture>.<tag>.safetensors`."""
    model = model or published_model(name.partition(".")[0])
    file = folder / f"{name}.safetensors"
    safetensors.torch.save_file({key: value.contiguous() for key, value in model.state_dict().items()}, file)
    return file


def write_to_hub_cache(cache: Path, name: str, model: nn.Module | None = None) -> Path:
    """Write timm's repository of that name as huggingface_hub keeps it: a blob, a snapshot that links to it, a ref."""
    repository = cache / f"models--timm--{name}"
    for part in ("blobs", "refs", "snapshots/0123abc"):
        (repository / part).mkdir(parents=True, exist_ok=True)
    written = write_to_folder(repository / "blobs", name, model)
    blob = written.rename(written.with_name(hashlib.sha256(written.read_bytes()).hexdigest()))
    (repository / "refs" / "main").write_text("0123abc")
    file = repository / "snapshots" / "0123abc" / "model.safetensors"
    file.symlink_to(Path("../../blobs") / blob.name)
    return file
