"""Robust rules: one rule, one file, one line in the table below. README.md says how to add one."""

from __future__ import annotations

from typing import Any

from choral.core.registry import build_named
from choral.robust.geometric_median import GeometricMedian
from choral.robust.median import Median
from choral.robust.rule import Rule
from choral.robust.trimmed_mean import TrimmedMean

__all__ = [
    "RULES",
    "GeometricMedian",
    "Median",
    "Rule",
    "TrimmedMean",
    "build",
]

RULES: dict[str, type[Rule]] = {
    "geometric_median": GeometricMedian,
    "median": Median,
    "trimmed_mean": TrimmedMean,
}
"""Name in a federation file to the class that it builds."""


def build(name: str, /, **arguments: Any) -> Rule:
    """Return the robust rule that a federation file names.

    Args:
        name: A key of `RULES`.
        arguments: Arguments of its class.

    Raises:
        UnknownName: There is no such rule.
        UnknownKey: The rule has no such argument.
        ConfigError: An argument is missing or out of its range.

    >>> build("trimmed_mean", trim=0.2)
    TrimmedMean(trim=0.2)
    """
    return build_named(RULES, name, arguments, what="robust rule")
