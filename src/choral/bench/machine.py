"""What a measurement was made on, and how it is summarised."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from statistics import median
from typing import Any


def machine() -> dict[str, Any]:
    """Return what matters about this machine."""
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def in_turn(
    ours: Callable[[], object], floor: Callable[[], object], *, repeat: int
) -> list[tuple[float, float]]:
    """Return wall seconds of both, pair by pair, after one run of each that is not counted."""
    ours()
    floor()
    return [(_seconds(ours), _seconds(floor)) for _ in range(repeat)]


def row(workload: str, pairs: list[tuple[float, float]], *, unit: str) -> dict[str, Any]:
    """Return medians, and the median of the ratios pair by pair."""
    ratios = sorted(a / b for a, b in pairs)
    return {
        "workload": workload,
        "ours": median(a for a, _ in pairs),
        "floor": median(b for _, b in pairs),
        "unit": unit,
        "ratio": median(ratios),
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
        "repeat": len(pairs),
    }


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
