"""Images in one folder per class, read through timm's folder reader. Labels follow the sorted names of the classes."""

from pathlib import Path

import numpy as np
from timm.data.readers import create_reader

from pld_grid.train.data._reader import MAX_IMAGE_BYTES, sample_order
from pld_grid.train.data._split import DataError
from pld_grid.util.atomic_files import read_regular


class FolderReader:
    """A `Reader` of image folders. Raises DataError if there are no images, or none in class folders."""

    format = "image folders"

    def __init__(self, root: Path) -> None:
        try:
            self._reader = create_reader("", root=str(root), split="")
        except (RuntimeError, OSError, AssertionError) as error:
            raise DataError(f"{root}: {error}") from None
        if "" in self._reader.class_to_idx:
            raise DataError(f"{root}: images lie in it directly, not in a folder for each class")
        samples = self._reader.samples
        order = sample_order(np.array([target for _, target in samples]), [path for path, _ in samples])
        self._reader.samples = [samples[i] for i in order]
        self._folder = root.name
        self.target_N = np.array([target for _, target in self._reader.samples], dtype=np.int64)
        self.class_names = tuple(self._reader.class_to_idx)

    def read(self, index: int) -> bytes:
        """See `Reader.read`."""
        return read_regular(self._reader.samples[index][0], MAX_IMAGE_BYTES)

    def name(self, index: int) -> str:
        """See `Reader.name`."""
        return f"{self._folder}/{self._reader.filename(index)}"
