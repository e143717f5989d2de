"""What a robust rule is."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from choral.core.checks import whole
from choral.core.params import Vector
from choral.core.transform import Kind

Stack: TypeAlias = npt.NDArray[np.float32]
"""Rows to be made one: group means or single updates, float32, shape `[n, d]`."""
Weights: TypeAlias = npt.NDArray[np.float64]
"""Weight of each row, float64, shape `[n]`, finite and at least 0."""


class Rule(Protocol):
    """A reducer that a bounded number of arbitrary rows cannot lead astray.

    A rule is a frozen value and a pure function. Its result is the same to the bit for any order of
    the rows, as long as their weights move with them. It never changes what it was given.
    """

    @property
    def name(self) -> str:
        """What configuration and messages call it."""
        ...

    @property
    def kind(self) -> Kind:
        """`EACH`: it reads every row. A row may itself be a sum, that of a group."""
        ...

    @property
    def weighted(self) -> bool:
        """Whether the weights count. Where they do not, every row has one vote."""
        ...

    def breakdown(self, n: int) -> int:
        """Return how many rows of `n` may hold anything while the result stays with the others."""
        ...

    def __call__(self, stack: Stack, weights: Weights) -> Vector:
        """Return one row for many.

        Args:
            stack: float32, shape `[n, d]`, n at least 1.
            weights: float64, shape `[n]`, finite and at least 0.

        Returns:
            A new float32 vector, shape `[d]`.

        Raises:
            WrongShape: `stack` or `weights` has another shape or dtype.
            NotFinite: NaN or infinity in a row or a weight.
            UpdateRejected: A weight is negative.
            PlanError: The rule cannot work with so few rows.
        """
        ...


def minority(n: int) -> int:
    """Return the largest number of rows that is less than half of `n`.

    >>> [minority(n) for n in (1, 2, 3, 4, 5)]
    [0, 0, 1, 1, 2]
    """
    return (whole("rows", n, least=1) - 1) // 2
