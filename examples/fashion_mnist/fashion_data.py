"""Fashion-MNIST for 100 clients, in the two partitions of McMahan et al. 2017.

The files are those of Debian's package `dataset-fashion-mnist`. `CHORAL_FASHION_MNIST` names
another folder that holds the same four files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from choral import data
from choral.core.errors import DataError

FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLIENTS = 100
SEED = 0
MEAN, DEVIATION = 0.2860, 0.3530
"""Of the training images' pixels in [0, 1]."""

Array = npt.NDArray[Any]


def iid() -> data.PartitionSource:
    """Return 100 clients with 600 images each, dealt out at random."""
    return data.iid(_read("train"), clients=CLIENTS, seed=SEED, test_fraction=0)


def two_shards() -> data.PartitionSource:
    """Return 100 clients with two shards of 300 images each: one or two kinds of clothing."""
    return data.shards(_read("train"), clients=CLIENTS, per_client=2, seed=SEED, test_fraction=0)


def test_set() -> tuple[Array, Array]:
    """Return the 10 000 test images: float32 `[10000, 784]`, and int64 `[10000]`."""
    return _read("t10k")


def _read(part: str) -> tuple[Array, Array]:
    """Return the images of one part, flattened and standardised, and their labels."""
    folder = Path(os.environ.get("CHORAL_FASHION_MNIST", FOLDER))
    images = data.read_images(_file(folder, f"{part}-images-idx3-ubyte"))
    labels = data.read_labels(_file(folder, f"{part}-labels-idx1-ubyte"))
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} images and {len(labels)} labels of `{part}`")
    pixels = images.reshape(len(images), -1).astype(np.float32)
    pixels /= 255
    pixels -= MEAN
    pixels /= DEVIATION
    return pixels, labels.astype(np.int64)


def _file(folder: Path, name: str) -> Path:
    """Return an IDX file, compressed or not."""
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise DataError(
        f"{folder}: no {name} or {name}.gz",
        hint="apt-get install dataset-fashion-mnist, or name the folder in CHORAL_FASHION_MNIST",
    )
