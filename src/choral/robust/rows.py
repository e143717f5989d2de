"""What the rules do with their rows: check them, cut them into blocks, put them in order.

The orders come from the values alone, so that no result depends on who arrived first.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from choral.core.errors import NotFinite, PlanError, UpdateRejected, WrongShape
from choral.robust.rule import Stack, Weights

_CELLS = 1 << 16
"""Numbers of a block, over all its rows: half a MiB in float64, which stays in the cache."""


def check(name: str, stack: Stack, weights: Weights) -> None:
    """Raise unless a rule can read these rows and weights; see `Rule.__call__`."""
    _check_array(f"{name}: rows", stack, np.float32, 2)
    _check_array(f"{name}: weights", weights, np.float64, 1)
    if not len(stack):
        raise PlanError(f"{name}: no rows, expected at least 1", hint="wait for one group or more")
    if len(weights) != len(stack):
        raise WrongShape(f"{name}: {len(weights)} weights for {len(stack)} rows")
    for part in blocks(stack):
        finite = np.isfinite(stack[:, part]).all(axis=1)
        if not finite.all():
            row = int(finite.argmin())
            raise NotFinite(f"{name}: row {row} has NaN or infinity, expected finite numbers")
    for index, weight in enumerate(weights.tolist()):
        if not np.isfinite(weight):
            raise NotFinite(f"{name}: weight {weight} of row {index}, expected a finite number")
        if weight < 0:
            raise UpdateRejected(f"{name}: weight {weight} of row {index}, expected at least 0")


def blocks(stack: Stack) -> Iterator[slice]:
    """Yield slices that cover the coordinates, in order, a block at a time."""
    rows, size = stack.shape
    width = max(_CELLS // rows, 1)
    for start in range(0, size, width):
        yield slice(start, min(start + width, size))


def sorted_blocks(stack: Stack) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Yield every block with each of its coordinates sorted over the rows, smallest first.

    The values are float64, shape `[n, width]`, in memory of their own. -0.0 comes as 0.0: the two
    are equal, so a sort would leave them in the order of the rows.
    """
    for part in blocks(stack):
        # One coordinate's values side by side sort several times faster than across rows.
        columns = stack[:, part].T.copy(order="C")
        columns += np.float32(0)
        columns.sort(axis=1)
        yield part, columns.T.astype(np.float64, order="C")


def row_order(stack: Stack, weights: Weights) -> list[int]:
    """Return the indices of the rows by their first different coordinate, then by their weight.

    Rows that are equal in all of this are interchangeable.

    >>> row_order(np.array([[1, 5], [0, 9], [1, 4]], np.float32), np.ones(3))
    [1, 2, 0]
    """

    def compare(one: int, other: int) -> int:
        for part in blocks(stack):
            differs = stack[one, part] != stack[other, part]
            if differs.any():
                at = part.start + int(differs.argmax())
                return -1 if stack[one, at] < stack[other, at] else 1
        return int(weights[one] > weights[other]) - int(weights[one] < weights[other])

    return sorted(range(len(stack)), key=functools.cmp_to_key(compare))


def _check_array(what: str, array: object, dtype: type, dimensions: int) -> None:
    """Raise `WrongShape` unless this is an array of the dtype and the number of dimensions."""
    expected = f"expected an array of {np.dtype(dtype).name} with {dimensions} dimension(s)"
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        got = getattr(array, "dtype", type(array).__name__)
        raise WrongShape(f"{what} of type {got}, {expected}")
    if array.ndim != dimensions:
        raise WrongShape(f"{what} of shape {list(array.shape)}, {expected}")
