"""Local data as tensors: arrays, tensors and datasets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from choral.core.errors import DataError, EmptyClient
from choral.core.keys import Key
from choral.core.plan import Local
from choral.core.task import is_columns
from choral.tasks.arrays import numbers, pair
from choral.tasks.batches import passes
from choral.tasks.torch_replica import Replica

_ALIGNMENT = 64
"""Bytes to whose multiples PyTorch's own allocator puts every tensor."""

Examples = tuple[torch.Tensor, torch.Tensor]
"""X and y; the first axis counts examples."""


def examples(data: Any, replica: Replica) -> Examples:
    """Return local data as tensors on the replica's device, without copying where possible.

    `(X, y)` are arrays or tensors. Anything else with a length and items is a dataset: its items
    `(x, y)` are stacked, every time, so that random augmentation follows the key. Floating values
    take the dtype of the model's parameters; whole-number targets become int64.

    Raises:
        DataError: It is neither, or its parts do not fit together.
        EmptyClient: It holds no examples.
    """
    if isinstance(data, TensorDataset) and type(data) is TensorDataset:
        x, y = pair(data.tensors)
    elif isinstance(data, tuple) or is_columns(data):
        x, y = pair(data)
    else:
        x, y = _stacked(data)
    inputs = _tensor("X", x, replica.dtype)
    targets = _tensor("y", y, replica.dtype)
    if not targets.is_floating_point() and targets.dtype != torch.int64:
        targets = targets.to(torch.int64)
    if replica.device.type != "cpu":
        inputs, targets = inputs.to(replica.device), targets.to(replica.device)
    if replica.channels_last and inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    return inputs, targets


def batches(data: Examples, local: Local, key: Key) -> Iterator[Examples]:
    """Yield the batches of a client: views, after one gather for each shuffled pass."""
    x, y = data if local.shuffle else placed(data)
    for walk in passes(len(x), local, key):
        if walk.order is not None:
            order = torch.from_numpy(walk.order).to(x.device)
            a, b = x.index_select(0, order), y.index_select(0, order)
        elif walk.used < len(x):
            a, b = x[: walk.used], y[: walk.used]
        else:
            a, b = x, y
        yield from zip(torch.split(a, walk.size), torch.split(b, walk.size), strict=True)


def placed(data: Examples) -> Examples:
    """Return the examples in memory as PyTorch places it, copied only where they are not.

    MKL takes other paths, with other last bits, for other alignments. A user's slice, a mapped file
    or a worker's copy of the same data may lie anywhere.
    """
    x, y = (t.clone() if t.data_ptr() % _ALIGNMENT else t for t in data)
    return x, y


def _tensor(name: str, values: Any, dtype: torch.dtype) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        tensor = values.detach()
    else:
        array = numbers(name, values)
        # PyTorch knows neither read-only memory, negative strides nor a foreign byte order.
        plain = array.flags.writeable and array.dtype.isnative and min(array.strides) >= 0
        native = array.dtype.newbyteorder("=")
        try:
            tensor = torch.from_numpy(array if plain else np.array(array, native, order="C"))
        except TypeError as error:
            raise DataError(f"{name} cannot be read as a tensor: {error}") from None
    if tensor.dtype == torch.bool or (tensor.is_floating_point() and tensor.dtype != dtype):
        return tensor.to(dtype)
    return tensor


def _stacked(data: Any) -> Examples:
    """Return the items of a dataset as two tensors."""
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise DataError(
            f"data of type {type(data).__name__}, expected (X, y) or a dataset with a length"
        )
    if len(data) == 0:
        raise EmptyClient("a client without examples")
    items = [data[index] for index in range(len(data))]
    if not all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
        raise DataError(f"items of {type(data).__name__} are not pairs (x, y)")
    try:
        x, y = (torch.stack([torch.as_tensor(item[i]) for item in items]) for i in (0, 1))
    except (RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"items of {type(data).__name__} do not stack: {error}") from None
    return x, y
