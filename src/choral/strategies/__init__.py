"""Strategies: one paper, one file, one line in the table below. README.md says how to add one."""

from __future__ import annotations

import inspect
from typing import Any

from choral.core.errors import ConfigError, UnknownKey, UnknownName, did_you_mean
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
    kind = STRATEGIES.get(str(name))
    if kind is None:
        raise UnknownName(f"unknown strategy `{name}`", hint=did_you_mean(str(name), STRATEGIES))
    parameters = inspect.signature(kind).parameters
    for key in arguments:
        if key not in parameters:
            raise UnknownKey(
                f"strategy `{name}` has no argument `{key}`", hint=did_you_mean(key, parameters)
            )
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in arguments:
            raise ConfigError(f"strategy `{name}` needs `{key}`")
    return kind(**arguments)
