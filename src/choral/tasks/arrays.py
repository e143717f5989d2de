"""A client's examples as `(X, y)` arrays, checked where they enter a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from choral.core.errors import DataError, EmptyClient
from choral.core.params import Array, Vector
from choral.core.task import is_columns


def pair(data: Any) -> tuple[Any, Any]:
    """Return the two members of `(X, y)`.

    Raises:
        DataError: It is no pair, or its members differ in length.
        EmptyClient: It holds no examples.
    """
    if not is_columns(data) or len(data) != 2:
        raise DataError(f"data is {_describe(data)}, expected a pair (X, y)")
    x, y = data
    try:
        counts = len(x), len(y)
    except TypeError:
        raise DataError(
            f"data is a pair of {_describe(x)} and {_describe(y)}, expected arrays"
        ) from None
    if counts[0] != counts[1]:
        raise DataError(f"X has {counts[0]} examples and y has {counts[1]}, expected as many")
    if counts[0] == 0:
        raise EmptyClient("a client without examples")
    return x, y


def table(data: Any, input_dim: int) -> tuple[Vector, Array]:
    """Return X as float32 `[n, input_dim]` and y as `[n]`, without copying where that is possible.

    Axes of X behind the first are flattened, so images are accepted.

    Raises:
        DataError: X has another number of features, or an array does not hold numbers.
    """
    first, second = pair(data)
    x, y = numbers("X", first), numbers("y", second)
    found = int(np.prod(x.shape[1:]))
    if x.ndim < 2 or found != input_dim:
        raise DataError(
            f"X has shape {list(x.shape)}: {found if x.ndim > 1 else 'no'} features, but the "
            f"model's input_dim is {input_dim}"
        )
    if y.size != len(y):
        raise DataError(f"y has shape {list(y.shape)}, expected one target an example")
    return x.reshape(len(x), input_dim).astype(np.float32, copy=False), y.reshape(-1)


def labels(y: Array, classes: Sequence[int] | Array) -> npt.NDArray[np.int64]:
    """Return the position in `classes` of every label.

    Args:
        y: Labels, shape `[n]`; whole numbers of any dtype.
        classes: Distinct labels in ascending order.

    Raises:
        DataError: A label that is not in `classes`; the message names it.

    >>> labels(np.array([1.0, -1.0]), [-1, 1]).tolist()
    [1, 0]
    """
    known = np.asarray(classes)
    at = np.searchsorted(known, y).clip(max=len(known) - 1)
    bad = known[at] != y
    if bad.any():
        raise DataError(
            f"label {y[bad][0]} is not one of the {len(known)} classes {_short(known)}",
            hint="classes are counted from 0; check `classes` and the target column",
        )
    return at.astype(np.int64, copy=False)


def numbers(name: str, values: Any) -> Array:
    """Return `values` as an array of numbers, or say that they are none."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} cannot be read as an array: {error}") from None
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{name} has dtype {array.dtype}, expected numbers",
            hint="encode words and dates as numbers first",
        )
    return array


def _describe(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"of type {type(value).__name__}"


def _short(values: Array) -> str:
    shown = ", ".join(str(v) for v in values[:4])
    return f"{shown}, …, {values[-1]}" if len(values) > 5 else ", ".join(map(str, values))
