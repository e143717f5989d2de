"""A client's training and test parts, and views of a dataset, for arrays, tensors and datasets.

Nothing here imports a framework: a tensor is what has a `shape`, a dataset is what has a length and
items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from choral.core.checks import real, whole
from choral.core.errors import DataError, EmptyClient
from choral.core.keys import Key
from choral.core.params import ClientId
from choral.core.selection import Strata
from choral.core.task import ClientData, is_columns

Indices: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Subset:
    """Some items of a dataset, fetched when they are asked for.

    It has the fields of PyTorch's own class of that name, and a `DataLoader` takes it.

    Attributes:
        dataset: Anything with `__len__` and `__getitem__`.
        indices: int64, which items, in order.
    """

    dataset: Any
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, at: int) -> Any:
        return self.dataset[int(self.indices[at])]


def count(data: Any, who: str) -> int:
    """Return the number of examples of `data`.

    Args:
        data: Columns of one length, or anything with a length and items.
        who: What messages call it.

    Raises:
        DataError: It is neither, or its columns differ in length.
    """
    if is_columns(data):
        lengths = [len(c) for c in data]
        if len(set(lengths)) != 1:
            raise DataError(f"{who}: columns of {lengths} examples, expected one length")
        return lengths[0]
    if isinstance(data, Mapping) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise DataError(
            f"{who}: data of type {type(data).__name__}",
            hint="expected (X, y) arrays or tensors, or a dataset with a length and items",
        )
    return len(data)


def take(data: Any, indices: Indices) -> Any:
    """Return some examples: columns are indexed, a dataset becomes a `Subset`."""
    if is_columns(data):
        return tuple(_rows(column, indices) for column in data)
    if hasattr(data, "shape"):
        return data[indices]
    if isinstance(data, Subset):
        return Subset(data.dataset, data.indices[indices])
    return Subset(data, indices)


def permutation(size: int, key: Key) -> Indices:
    """Return a random order of `size` items; equal keys give equal orders on any NumPy."""
    return np.argsort(key.bits().random_raw(size), kind="stable").astype(np.int64)


def check_fraction(fraction: float) -> float:
    """Return a test fraction, or raise `ConfigError` where it is not in [0, 1)."""
    return real("test_fraction", fraction, least=0, below=1)


def check_seed(seed: int) -> int:
    """Return a seed of splits, or raise `ConfigError` where it is not 0 to 2^64 - 1."""
    return whole("seed", seed, least=0, most=2**64 - 1)


def held_out_size(size: int, fraction: float) -> int:
    """Return how many of `size` examples are held out: rounded, and at least one stays.

    >>> held_out_size(10, 0.25), held_out_size(1, 0.9), held_out_size(3, 0.9)
    (3, 0, 2)
    """
    return max(0, min(size - 1, math.floor(size * fraction + 0.5)))


def split(
    data: Any, client: ClientId, *, test_fraction: float, seed: int, strata: Strata | None = None
) -> ClientData:
    """Return a client's data, with its own test part where one is asked for.

    Args:
        data: Columns, a dataset, or a `ClientData`, which is split already and stays as it is.
        client: Whose data it is; each client's order is drawn from a key of its own.
        test_fraction: Share of the examples to hold out, in [0, 1). At least one example stays for
            training; a client too small to hold one out has no test part.
        seed: Seed of the split.
        strata: The client's labels; those of a `ClientData` are kept.

    Raises:
        EmptyClient: There is no training example.
        DataError: The data has no length, or its columns differ in length.
    """
    if isinstance(data, ClientData):
        _not_empty(data.train, client)
        return data if data.strata or not strata else ClientData(data.train, data.test, strata)
    size = _not_empty(data, client)
    held_out = held_out_size(size, test_fraction)
    if not held_out:
        return ClientData(data, None, strata or {})
    order = permutation(size, Key.root(seed).fold(client, "split"))
    test, train = np.sort(order[:held_out]), np.sort(order[held_out:])
    return ClientData(take(data, train), take(data, test), strata or {})


def labels_of(data: Any) -> npt.NDArray[Any]:
    """Return the labels of a dataset, shape `[n]`.

    Args:
        data: `(X, y)`; a dataset with `targets` or `tensors`; or one with items `(x, y)`, which are
            then all read once.

    Raises:
        DataError: There are no labels, or not one per example.
    """
    size = count(data, "the dataset")
    if is_columns(data):
        if len(data) < 2:
            raise DataError("the dataset has no labels: one column, expected (X, y)")
        labels = np.asarray(data[1])
    elif isinstance(data, Subset):
        return labels_of(data.dataset)[data.indices]
    elif hasattr(data, "targets"):
        labels = np.asarray(data.targets)
    elif len(getattr(data, "tensors", ())) > 1:
        labels = np.asarray(data.tensors[1])
    else:
        labels = np.array([_label(data[i]) for i in range(size)])
    labels = labels.reshape(-1)
    if len(labels) != size:
        raise DataError(f"the dataset has {size} examples and {len(labels)} labels")
    return labels


def _rows(column: Any, indices: Indices) -> Any:
    """Return some rows of one column."""
    if hasattr(column, "shape"):
        return column[indices]
    return [column[int(i)] for i in indices]


def _label(item: Any) -> Any:
    """Return the label of one item of a dataset."""
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise DataError(f"item of type {type(item).__name__}, expected a pair (x, y)")
    return item[1].item() if hasattr(item[1], "item") else item[1]


def _not_empty(data: Any, client: ClientId) -> int:
    """Return the number of a client's examples, or raise where there is none."""
    size = count(data, f"client `{client}`")
    if not size:
        raise EmptyClient(f"client `{client}` has no examples, expected at least one")
    return size
