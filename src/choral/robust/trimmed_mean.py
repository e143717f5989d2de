"""The coordinate-wise trimmed mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from choral.core.checks import real
from choral.core.errors import PlanError
from choral.core.params import Vector
from choral.core.transform import Kind
from choral.robust.rows import check, sorted_blocks
from choral.robust.rule import Stack, Weights, minority


@dataclass(frozen=True, slots=True)
class TrimmedMean:
    """Leave out the smallest and the greatest values of every coordinate; average the others.

    With k = floor(trim * n), and x_(1) <= ... <= x_(n) the values of one coordinate:

        (x_(k+1) + ... + x_(n-k)) / (n - 2k)

    Source: Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards
    Optimal Statistical Rates", 2018 (arXiv 1803.01498), the definition of the coordinate-wise
    trimmed mean; their beta is `trim`. What differs: where trim * n is no whole number, the number
    left out is rounded down, and the divisor is the number of values that are left.

    Weights are checked and then ignored, as in the paper: every row has one vote, also one of
    weight 0.

    Guarantees:
        - While at most `breakdown(n)` rows are arbitrary, every coordinate of the result lies
          between the least and the greatest value that the other rows have there. With one more,
          nothing is promised.
        - It never is a mean by accident: where `trim` is above 0 and no row would be left out, it
          raises.
        - The order of the rows does not change a bit of it: sorted values are added.

    Edge cases:
        - trim = 0: the unweighted mean, which tolerates no arbitrary row.
        - n = 1 and n = 2: nothing could be left out, so `trim` must be 0.
        - A product trim * n that falls short of a whole number by rounding counts as that number
          (0.29 * 100 is 29).
        - Ties: equal values are interchangeable. -0.0 counts as 0.0.

    Memory beyond the stack and the result: about 2 MiB, for up to 65536 rows.

    Args:
        trim: Fraction of the rows that is left out at each end, in [0, 0.5). Values near 0.5 come
            near the median.

    Raises:
        ConfigError: `trim` is out of its range.

    >>> rows = np.array([[0], [1], [2], [6], [1e9]], np.float32)
    >>> TrimmedMean(trim=0.2)(rows, np.ones(5)).tolist()
    [3.0]
    """

    name: ClassVar[str] = "trimmed_mean"
    kind: ClassVar[Kind] = Kind.EACH
    weighted: ClassVar[bool] = False

    trim: float = 0.1

    def __post_init__(self) -> None:
        trim = real(f"{self.name}.trim", self.trim, least=0, below=0.5)
        object.__setattr__(self, "trim", trim)

    def breakdown(self, n: int) -> int:
        """Return the number of arbitrary rows of `n` (from 1) that it tolerates: floor(trim * n).

        0 means that calling it with `n` rows raises, unless `trim` is 0.

        >>> TrimmedMean(trim=0.1).breakdown(25), TrimmedMean(trim=0.1).breakdown(9)
        (2, 0)
        """
        return min(minority(n), math.floor(self.trim * n + 1e-9))

    def __call__(self, stack: Stack, weights: Weights) -> Vector:
        """Return the trimmed mean row; see `Rule.__call__` for the arguments and the errors."""
        check(self.name, stack, weights)
        rows, size = stack.shape
        cut = self._cut(rows)
        result = np.empty(size, np.float32)
        for part, ordered in sorted_blocks(stack):
            total = ordered[cut]
            for values in ordered[cut + 1 : rows - cut]:  # from the smallest, one by one
                total += values
            result[part] = total / (rows - 2 * cut)
        return result

    def _cut(self, rows: int) -> int:
        """Return how many values go at each end, or raise where none would and some should."""
        cut = self.breakdown(rows)
        if self.trim and not cut:
            needed = max(3, math.ceil(1 / self.trim))
            raise PlanError(
                f"{self.name}: {rows} row(s), and {self.trim:g} of them at each end is none",
                hint=f"take {needed} groups or more, a greater `trim`, or the median",
            )
        return cut
