"""Choosing a cohort: one way, one file, one line in the table below. README.md says how."""

from __future__ import annotations

from typing import Any

from choral.core.registry import build_named
from choral.core.selection import Selector
from choral.selection.coverage import Coverage, StratumCoverage, coverage
from choral.selection.history import Participation
from choral.selection.hybrid import Hybrid
from choral.selection.poisson import Poisson
from choral.selection.round_robin import RoundRobin
from choral.selection.stratified import Stratified
from choral.selection.uniform import Uniform

__all__ = [
    "SELECTIONS",
    "Coverage",
    "Hybrid",
    "Participation",
    "Poisson",
    "RoundRobin",
    "Stratified",
    "StratumCoverage",
    "Uniform",
    "build",
    "coverage",
]

SELECTIONS: dict[str, type[Selector]] = {
    "hybrid": Hybrid,
    "poisson": Poisson,
    "round_robin": RoundRobin,
    "stratified": Stratified,
    "uniform": Uniform,
}
"""Name in a federation file to the class that it builds."""


def build(name: str, /, **arguments: Any) -> Selector:
    """Return the selector that a federation file names.

    Args:
        name: A key of `SELECTIONS`.
        arguments: Arguments of its class.

    Raises:
        UnknownName: There is no such selection.
        UnknownKey: The selection has no such argument.
        ConfigError: An argument is missing or out of its range.

    >>> build("stratified", by="region")
    Stratified(by='region', min_share=0.0, minimum=0)
    """
    return build_named(SELECTIONS, name, arguments, what="selection")
