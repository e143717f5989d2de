"""Tasks: local work in NumPy, PyTorch and scikit-learn. Frameworks are imported on first use."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

_ADAPTERS = ("numpy", "torch", "sklearn", "zoo", "batches")


def __getattr__(name: str) -> ModuleType:
    """Import an adapter when it is first asked for: `choral.tasks.torch` alone loads PyTorch."""
    if name in _ADAPTERS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
