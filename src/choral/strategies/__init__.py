"""Strategies: one paper, one file, one line in the table below. README.md says how to add one."""

from __future__ import annotations

from typing import Any

from choral.core.registry import build_named
from choral.core.strategy import AnyStrategy
from choral.strategies.fedadagrad import FedAdagrad
from choral.strategies.fedadam import FedAdam
from choral.strategies.fedavg import FedAvg
from choral.strategies.fedavgm import FedAvgM
from choral.strategies.fedprox import FedProx
from choral.strategies.fedyogi import FedYogi

__all__ = [
    "STRATEGIES",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedProx",
    "FedYogi",
    "build",
]

STRATEGIES: dict[str, type[AnyStrategy]] = {
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedprox": FedProx,
    "fedyogi": FedYogi,
}
"""Name in a federation file to the class that it builds."""


def build(name: str, /, **arguments: Any) -> AnyStrategy:
    """Return the strategy that a federation file names.

    Args:
        name: A key of `STRATEGIES`.
        arguments: Arguments of its class.

    Raises:
        UnknownName: There is no such strategy.
        UnknownKey: The strategy has no such argument.
        ConfigError: An argument is missing or out of its range.

    >>> build("fedprox", mu=0.1)
    FedProx(mu=0.1, weighting='examples')
    """
    return build_named(STRATEGIES, name, arguments, what="strategy")
