"""Reading the JSON of a run: what is missing is empty, what is no finite number is None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, TypeAlias

from choral.telemetry.text import finite, whole

Run: TypeAlias = Mapping[str, Any]
"""The JSON of a run, or an object in it."""

TRAIN: Final = "train_"
"""Begins the names of metrics that clients measure while they train."""

SIMULATED: Final = frozenset({"inline", "workers", "ray"})
"""Engines that run all clients in one place."""


def part(result: Run, key: str) -> Run:
    """Return an object of the JSON; an empty one where it is missing."""
    found = result.get(key)
    return found if isinstance(found, Mapping) else {}


def items(result: Run, key: str) -> list[Run]:
    """Return the objects of a list of the JSON."""
    found = result.get(key)
    listed = found if isinstance(found, list | tuple) else ()
    return [item for item in listed if isinstance(item, Mapping)]


def text(result: Run, key: str) -> str:
    """Return a value as text; nothing where it is missing, None or no finite number."""
    found = result.get(key)
    unknown = found is None or (isinstance(found, float) and finite(found) is None)
    return "" if unknown else str(found)


def numbers_of(rounds: Sequence[Run]) -> list[int]:
    """Return the rounds' numbers, or 1, 2, … where those do not ascend.

    >>> numbers_of([{"round": 3}, {"round": 4}]), numbers_of([{}, {}])
    ([3, 4], [1, 2])
    """
    found = [whole(r.get("round")) for r in rounds]
    ascending = all(a < b for a, b in pairwise(found))
    return found if ascending else list(range(1, len(rounds) + 1))


def values_of(parts: Sequence[Run], key: str, *, within: str = "") -> list[float | None]:
    """Return one number of each object, or of the object `within` each."""
    inner = [part(p, within) for p in parts] if within else parts
    return [finite(p.get(key)) for p in inner]


def known(values: Sequence[float | None]) -> list[float]:
    """Return the values that are there."""
    return [v for v in values if v is not None]


def metric_names(parts: Sequence[Run]) -> list[str]:
    """Return the names of all metrics: losses last, a metric of training after its namesake.

    >>> metric_names([{"train_loss": 1, "loss": 2}, {"accuracy": 3}])
    ['accuracy', 'loss', 'train_loss']
    """
    names = {str(name) for p in parts for name in p}
    return sorted(names, key=lambda n: ("loss" in n, n.removeprefix(TRAIN), n.startswith(TRAIN), n))


def epsilon_of(result: Run) -> float | None:
    """Return the run's own bound, else the largest of its rounds; None where there is none."""
    own = finite(part(result, "privacy").get("epsilon"))
    spent = known(values_of(items(result, "rounds"), "epsilon"))
    return own if own is not None else max(spent, default=None)


def client_count(result: Run) -> int | None:
    """Return how many clients there were, or None where the JSON does not say."""
    told = finite(part(result, "coverage").get("clients"))
    return int(told) if told is not None else len(part(result, "client_metrics")) or None


def plural(count: int, word: str) -> str:
    """Return a count of things.

    >>> plural(1, "round"), plural(1500, "round")
    ('1 round', '1,500 rounds')
    """
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
