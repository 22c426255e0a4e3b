"""Folders of published weights."""

import os
import pickle
import struct
from typing import Any

from front_door import Case

PROFILE = """\
description: one published teacher
dataset: {name: imagenet, image_size: 160}
recipe: {batch_size: 8, micro_batch_size: 8, mean: [0, 0, 0], std: [1, 1, 1]}
optimizer: lamb
optimizers: {lamb: {learning_rate: 1e-3}}
teachers: {source: pretrained}
models:
  Small: {architecture: test_resnet}
  Big: {architecture: test_resnet, pretrained: {tag: r160_in1k}}
"""
FILES: dict[str, str | bytes] = {"mine.yaml": "cells: {student: Small, teacher: Big, loss: kd}\n", "one.yaml": PROFILE}
NAME = "test_resnet.r160_in1k"
HEADER = b'{"fc.weight":{"dtype":"F32","shape":[100],"data_offsets":[0,400]}}'


class Mkdir:
    """Pickled, it makes a folder when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("opened",)


def _file(content: bytes, said: str = "not a whole safetensors file") -> Case:
    files = {**FILES, f"weights/{NAME}.safetensors": content}
    said = f"weights weights/{NAME}.safetensors: {said}"
    return Case(("plan", "mine.yaml", "--profile", "one.yaml", "--weights-dir", "weights"), said, files)


def _missing(said: str, files: dict[str, bytes], **settings: str) -> Case:
    folder = ("--weights-dir", "weights") if files else ()
    return Case(
        ("audit-teachers", "--profile", "one.yaml", *folder), said, {**FILES, **files}, settings, alone=bool(settings)
    )


CASES = {
    "no folder": Case(
        ("plan", "mine.yaml", "--profile", "one.yaml", "--weights-dir", "gone"),
        "--weights-dir: no such folder: gone",
        FILES,
    ),
    "file for a folder": Case(
        ("plan", "mine.yaml", "--profile", "one.yaml", "--weights-dir", "mine.yaml"),
        "--weights-dir: no such folder: mine.yaml",
        FILES,
    ),
    "empty folder": _missing(f"published weights are missing: {NAME}; looked in weights", {"weights/README": b""}),
    "pickle": _missing(
        f"refused {NAME}.pth: a pickle can run code, save it as safetensors",
        {f"weights/{NAME}.pth": pickle.dumps(Mkdir())},
    ),
    "pickle of the hub's": _missing(f"refused {NAME}.bin: a pickle can run code", {f"weights/{NAME}.bin": b""}),
    "pickle that says that it is none": _file(pickle.dumps(Mkdir())),
    "torch's archive that says that it is none": _file(b"PK\x03\x04" + bytes(100)),
    "empty": _file(b""),
    "endless header": _file(struct.pack("<Q", 2**62) + HEADER),
    "header that is no JSON": _file(struct.pack("<Q", 4) + b"abcd"),
    "truncated": _file(struct.pack("<Q", len(HEADER)) + HEADER + bytes(399)),
    "longer than it says": _file(struct.pack("<Q", len(HEADER)) + HEADER + bytes(401)),
    "numbers that overlap": _file(
        struct.pack("<Q", 2 * len(HEADER))
        + HEADER[:-1]
        + b","
        + HEADER[1:].replace(b"fc.weight", b"fc.weigh2")
        + bytes(400)
    ),
}
