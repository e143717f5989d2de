"""How long a lease may last."""

from __future__ import annotations

import math


def check_seconds(seconds: float) -> float:
    """Return the length of a lease.

    Raises:
        ValueError: It is negative or not finite: such a lease would never end.

    >>> check_seconds(2)
    2.0
    """
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"a lease of {seconds} s: expected a finite number, at least 0")
    return float(seconds)
