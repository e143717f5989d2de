"""The geometric median, by smoothed Weiszfeld steps: RFA."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from choral.core.checks import real, whole
from choral.core.errors import PlanError
from choral.core.params import Vector
from choral.core.transform import Kind
from choral.robust.rows import blocks, check, row_order
from choral.robust.rule import Stack, Weights, minority

_Floats: TypeAlias = npt.NDArray[np.float64]

_SETTLED = 2.0**-40
"""Relative change of the rows' shares below which another step would change nothing."""


@dataclass(frozen=True, slots=True)
class GeometricMedian:
    """Come close to the point with the least weighted sum of distances to the rows.

    With a_i the row x_i's share of the weight, from a start v:

        b_i = a_i / max(nu, |v - x_i|),   v' = sum_i b_i * x_i / sum_i b_i

    Source: Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning", 2022 (IEEE
    Transactions on Signal Processing; arXiv 1912.13445), the smoothed Weiszfeld algorithm.

    What differs, because a few steps from a mean do not reach the median when a row is huge (near
    the other rows a step shrinks the error only by about b / (1 - b), b the share of the bad rows):
        - The start is the weighted median of every coordinate.
        - The first step has in place of nu the weighted median of the distances from the start,
          where that is greater: a start that is a row would hold small steps in its place.
        - It ends early when no b_i / sum(b) changes by more than 2^-40 of itself.

    Weights count: a row of weight 2 is as good as two equal rows of weight 1, and one of weight 0
    has no effect. Whoever can claim a weight can claim influence, so bound weights before.

    Guarantees:
        - Let a share b < 1/2 of the weight be on arbitrary rows, and the others within a box of
          diagonal D, at least nu. Then the start is in the box, and the result no farther from it
          than 2.5 * D / (1 - 2b), after any number of steps.
        - With equal weights that holds for up to `breakdown(n)` arbitrary rows. With other weights
          it is the weight that must be less than half, however many rows have it.
        - The result is a weighted mean of the rows. It is near the minimum after 8 steps, not at
          it; more steps come nearer.
        - The order of the rows does not change a bit of it: they are first sorted by their values.

    Edge cases:
        - n = 1: the row. n = 2 with equal weights: the mean, as every point between is a median;
          else within nu of the row with the greater weight.
        - More than half the weight on equal rows: within nu of them. All rows equal: that row.
        - Distances of zero do no harm: none counts as less than nu.
        - A row of weight 0 may be as far away as float32 allows. All weights 0: it raises.

    Memory beyond the stack and the result: about 2 MiB, for up to 65536 rows. Every step
    reads the stack once.

    Args:
        iterations: Most steps that are taken, 1 to 1000.
        smoothing: nu, in units of the rows, 1e-12 to 1e6. Distances below it count as it.

    Raises:
        ConfigError: An argument is out of its range.

    >>> rows = np.array([[0, 0], [2, 0], [0, 2], [2, 2], [9e9, 9e9]], np.float32)
    >>> [round(x, 2) for x in GeometricMedian(iterations=100)(rows, np.ones(5)).tolist()]
    [1.58, 1.58]
    """

    name: ClassVar[str] = "geometric_median"
    kind: ClassVar[Kind] = Kind.EACH
    weighted: ClassVar[bool] = True

    iterations: int = 8
    smoothing: float = 1e-6

    def __post_init__(self) -> None:
        iterations = whole(f"{self.name}.iterations", self.iterations, least=1, most=1000)
        smoothing = real(f"{self.name}.smoothing", self.smoothing, least=1e-12, most=1e6)
        object.__setattr__(self, "iterations", iterations)
        object.__setattr__(self, "smoothing", smoothing)

    def breakdown(self, n: int) -> int:
        """Return the number of arbitrary rows of `n` (from 1), equal in weight, that it tolerates.

        It is (n - 1) // 2.

        >>> GeometricMedian().breakdown(10)
        4
        """
        return minority(n)

    def __call__(self, stack: Stack, weights: Weights) -> Vector:
        """Return a row near the geometric median; see `Rule.__call__`.

        Raises:
            PlanError: There are no rows, or all weights are 0.
        """
        check(self.name, stack, weights)
        if not weights.any():
            raise PlanError(
                f"{self.name}: no row of {len(stack)} has a weight above 0",
                hint="weigh the rows equally, or use the median, which takes no weights",
            )
        order = row_order(stack, weights)
        share = self._shares(stack, order, _scaled(weights[order]))
        result = np.empty(stack.shape[1], np.float32)
        for part in blocks(stack):
            result[part] = _mean(_block(stack, order, part), share)
        return result

    def _shares(self, stack: Stack, order: list[int], mass: _Floats) -> _Floats:
        """Return each row's share in the result, rows in their order by value."""
        distance = _distances(stack, order, partial(_middle, mass=mass))
        least = max(self.smoothing, float(_middle(distance[:, None], mass)[0]))
        share = _pulls(mass, distance, least)
        for _ in range(self.iterations - 1):
            last = share
            distance = _distances(stack, order, partial(_mean, share=last))
            share = _pulls(mass, distance, self.smoothing)
            if (abs(share - last) <= _SETTLED * last).all():
                break
        return share


def _scaled(weights: _Floats) -> _Floats:
    """Return the weights over a power of two, at most 1 each: sums of whole numbers stay exact."""
    return np.ldexp(weights, -math.frexp(weights.max())[1])


def _pulls(mass: _Floats, distance: _Floats, least: float) -> _Floats:
    """Return each row's share of the next point: its mass over its distance, which sum to 1."""
    pulls: _Floats = mass / np.maximum(distance, least)
    share: _Floats = pulls / pulls.sum()
    return share


def _block(stack: Stack, order: list[int], part: slice) -> _Floats:
    """Return some coordinates of the rows in their order, in memory of their own."""
    block = np.empty((len(order), part.stop - part.start))
    for at, row in enumerate(order):
        block[at] = stack[row, part]
    return block


def _mean(block: _Floats, share: _Floats) -> _Floats:
    """Return the weighted mean of the rows. Not a BLAS product: those depend on threads."""
    mean: _Floats = np.einsum("i,ij->j", share, block)
    return mean


def _middle(block: _Floats, mass: _Floats) -> _Floats:
    """Return the weighted median over the rows; where half the mass is on each side, the mean."""
    columns, rows, half = block.T.copy(order="C"), len(mass), mass.sum() / 2
    if (mass == mass[0]).all():  # the same, sooner
        columns.sort(axis=1)
        low, high = columns[:, (rows - 1) // 2], columns[:, rows // 2]
    else:
        order, each = np.argsort(columns, axis=1), np.arange(len(columns))
        below = np.cumsum(mass[order], axis=1)
        low = columns[each, order[each, (below >= half).argmax(axis=1)]]
        high = columns[each, order[each, (below > half).argmax(axis=1)]]
    middle: _Floats = (low + high) / 2
    return middle


def _distances(stack: Stack, order: list[int], centre: Callable[[_Floats], _Floats]) -> _Floats:
    """Return the rows' distances from a point, which is made anew for each block from its rows."""
    squares = np.zeros(len(order))
    for part in blocks(stack):
        block = _block(stack, order, part)
        block -= centre(block)
        squares += np.einsum("ij,ij->i", block, block)
    return np.sqrt(squares)
