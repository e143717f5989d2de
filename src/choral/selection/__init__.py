"""Choosing a cohort: one way, one file, one line in the table below. README.md says how."""

from __future__ import annotations

import inspect
from typing import Any

from choral.core.errors import ConfigError, UnknownKey, UnknownName, did_you_mean
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
    kind = SELECTIONS.get(str(name))
    if kind is None:
        raise UnknownName(f"unknown selection `{name}`", hint=did_you_mean(str(name), SELECTIONS))
    parameters = inspect.signature(kind).parameters
    for key in arguments:
        if key not in parameters:
            raise UnknownKey(
                f"selection `{name}` has no argument `{key}`", hint=did_you_mean(key, parameters)
            )
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in arguments:
            raise ConfigError(f"selection `{name}` needs `{key}`")
    return kind(**arguments)
