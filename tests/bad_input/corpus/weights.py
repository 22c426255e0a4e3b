"""Folders of published weights."""

import os
import pickle
import struct
from typing import Any

from error_cases import Case

from corpus import plain

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
    """An object whose pickle makes a folder when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("opened",)


def _file(content: bytes, message: str = "not a complete safetensors file") -> Case:
    files = {**FILES, f"weights/{NAME}.safetensors": content}
    message = f"weights weights/{NAME}.safetensors: {message}"
    return plain("plan mine.yaml --profile one.yaml --weights-dir weights", message, files)


def _missing(message: str, files: dict[str, bytes], **settings: str) -> Case:
    folder = ("--weights-dir", "weights") if files else ()
    return Case(
        ("audit-teachers", "--profile", "one.yaml", *folder),
        message,
        {**FILES, **files},
        settings,
        alone=bool(settings),
    )


def _audit(flags: str, message: str) -> Case:
    return plain(f"audit-teachers --profile one.yaml {flags}", message, FILES)


CASES = {
    "no folder": plain(
        "plan mine.yaml --profile one.yaml --weights-dir gone", "--weights-dir: no such folder: gone", FILES
    ),
    "file for a folder": plain(
        "plan mine.yaml --profile one.yaml --weights-dir mine.yaml", "--weights-dir: no such folder: mine.yaml", FILES
    ),
    "audit of an unknown teacher": _audit("--teacher ViT-Base", '--teacher: unknown model "ViT-Base"'),
    "audit of a student": _audit("--teacher Small", '--teacher: "Small" has no published weights'),
    "audit without its folder": _audit("--weights-dir gone", "--weights-dir: no such folder: gone"),
    "empty folder": _missing(f"published weights are missing: {NAME}; looked in weights", {"weights/README": b""}),
    "pickle": _missing(
        f"refused {NAME}.pth: a pickle can run code, save it as safetensors",
        {f"weights/{NAME}.pth": pickle.dumps(Mkdir())},
    ),
    "pickle named as on the hub": _missing(f"refused {NAME}.bin: a pickle can run code", {f"weights/{NAME}.bin": b""}),
    "pickle named safetensors": _file(pickle.dumps(Mkdir())),
    "torch archive named safetensors": _file(b"PK\x03\x04" + bytes(100)),
    "empty": _file(b""),
    "huge header": _file(struct.pack("<Q", 2**62) + HEADER),
    "header that is no JSON": _file(struct.pack("<Q", 4) + b"abcd"),
    "truncated": _file(struct.pack("<Q", len(HEADER)) + HEADER + bytes(399)),
    "longer than its header says": _file(struct.pack("<Q", len(HEADER)) + HEADER + bytes(401)),
    "overlapping tensors": _file(
        struct.pack("<Q", 2 * len(HEADER))
        + HEADER[:-1]
        + b","
        + HEADER[1:].replace(b"fc.weight", b"fc.weigh2")
        + bytes(400)
    ),
}
