"""The coordinate-wise median."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from choral.core.params import Vector
from choral.core.transform import Kind
from choral.robust.rows import check, sorted_blocks
from choral.robust.rule import Stack, Weights, minority


@dataclass(frozen=True, slots=True)
class Median:
    """Take the middle value of every coordinate.

    Source: Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards
    Optimal Statistical Rates", 2018 (arXiv 1803.01498), the definition of the coordinate-wise
    median. What differs: nothing.

    Weights are checked and then ignored, as in the paper: every row has one vote, also one of
    weight 0.

    Guarantees:
        - While at most `breakdown(n)` rows are arbitrary, every coordinate of the result lies
          between the least and the greatest value that the other rows have there. With one more,
          nothing is promised.
        - The result is one row's value in each coordinate (n odd), or halfway between two (n even);
          as a vector it need not be near any row.
        - The order of the rows does not change a bit of it.

    Edge cases:
        - n = 1: the row itself. n = 2: the mean. Neither tolerates an arbitrary row.
        - n even: the mean of the two middle values, taken in float64 and rounded once.
        - Ties: equal values are interchangeable. -0.0 counts as 0.0.

    Memory beyond the stack and the result: about 2 MiB, for up to 65536 rows.

    >>> rows = np.array([[1, 0], [2, 1], [3e9, -3e9]], np.float32)
    >>> Median()(rows, np.ones(3)).tolist()
    [2.0, 0.0]
    """

    name: ClassVar[str] = "median"
    kind: ClassVar[Kind] = Kind.EACH
    weighted: ClassVar[bool] = False

    def breakdown(self, n: int) -> int:
        """Return the number of arbitrary rows of `n` (from 1) that it tolerates: (n - 1) // 2.

        >>> Median().breakdown(10)
        4
        """
        return minority(n)

    def __call__(self, stack: Stack, weights: Weights) -> Vector:
        """Return the median row; see `Rule.__call__` for the arguments and the errors."""
        check(self.name, stack, weights)
        rows, size = stack.shape
        result = np.empty(size, np.float32)
        for part, ordered in sorted_blocks(stack):
            result[part] = (ordered[(rows - 1) // 2] + ordered[rows // 2]) / 2
        return result
