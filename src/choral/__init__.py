"""Choral: federated learning in which the coordinator learns only the sum.

Everything that a user needs is importable from here; nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from choral._version import __version__

if TYPE_CHECKING:
    from choral import data, tasks
    from choral.core.errors import ChoralError, RunFailed
    from choral.core.params import Params, Role, Spec
    from choral.core.plan import Local, Objective, Plan
    from choral.core.task import ClientData
    from choral.core.update import Update
    from choral.privacy.terms import Privacy
    from choral.simulation.api import simulate
    from choral.simulation.availability import Availability
    from choral.strategies import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedProx, FedYogi
    from choral.telemetry.result import Result

_WHERE = {
    "Availability": "choral.simulation.availability",
    "ChoralError": "choral.core.errors",
    "ClientData": "choral.core.task",
    "FedAdagrad": "choral.strategies",
    "FedAdam": "choral.strategies",
    "FedAvg": "choral.strategies",
    "FedAvgM": "choral.strategies",
    "FedProx": "choral.strategies",
    "FedYogi": "choral.strategies",
    "Local": "choral.core.plan",
    "Objective": "choral.core.plan",
    "Params": "choral.core.params",
    "Plan": "choral.core.plan",
    "Privacy": "choral.privacy.terms",
    "Result": "choral.telemetry.result",
    "Role": "choral.core.params",
    "RunFailed": "choral.core.errors",
    "Spec": "choral.core.params",
    "Update": "choral.core.update",
    "simulate": "choral.simulation.api",
}
_MODULES = ("data", "selection", "strategies", "tasks")

__all__ = [
    "Availability",
    "ChoralError",
    "ClientData",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedProx",
    "FedYogi",
    "Local",
    "Objective",
    "Params",
    "Plan",
    "Privacy",
    "Result",
    "Role",
    "RunFailed",
    "Spec",
    "Update",
    "__version__",
    "data",
    "simulate",
    "tasks",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"choral.{name}")
    raise AttributeError(f"module `choral` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
