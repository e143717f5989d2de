"""The largest loss of a record over clients of which the number of records is roughly known.

A client that trains on n records by batches of b draws each with probability b / n and takes as
many steps as n / b, rounded up. Neither alone says how much a record loses, and with n between two
numbers there are as many cases as there are numbers of steps. A case with fewer steps and a smaller
probability than another loses less, so it is left out; of many, neighbours are taken together by
the larger of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from choral.core.checks import whole
from choral.core.errors import ConfigError, PlanError
from choral.core.plan import Local
from choral.privacy.accounting import epsilon_of
from choral.privacy.record import record_privacy, sampling_rate, steps_of
from choral.privacy.vocabulary import Mechanism, Poisson, PrivacyUnit, Relation, Release

MOST_CASES: Final = 16
"""Cases that an accountant is asked about, at most."""


@dataclass(frozen=True, slots=True)
class Trainings:
    """What is known of one client.

    Attributes:
        least: Fewest records that it trains on, at least 1.
        most: Most of them.
        times: Rounds that it trained in, those that came to nothing included.

    Raises:
        ConfigError: One is out of range.
    """

    least: int
    most: int
    times: int

    def __post_init__(self) -> None:
        whole("records", self.least, least=1)
        whole("trainings", self.times, least=0)
        if whole("records", self.most, least=1) < self.least:
            raise ConfigError(f"from {self.least} to {self.most} records")


def worst_loss(
    local: Local,
    clients: Iterable[Trainings],
    *,
    delta: float,
    dimension: int = 0,
    exact: bool = True,
) -> float:
    """Return an upper bound of what a record of any of these clients has lost; 0 without any.

    Args:
        local: Local terms, with `record` and a noise multiplier there.
        clients: What is known of each; no person is a record of two of them.
        delta: In (0, 1).
        dimension: Trained coordinates of a client.
        exact: By the tightest accountant, which takes up to seconds; else by Rényi divergences.

    Raises:
        PlanError: Each client finds its own noise, so that its number of records must be known.
    """
    z = record_privacy(local).noise_multiplier
    if z is None:
        raise PlanError("a bound for clients that find their own noise")
    worst = _grouped(_frontier(case for client in set(clients) for case in _cases(local, client)))

    def loss(case: tuple[float, int], accountant: str) -> float:
        q, steps = case
        one = Release(Mechanism.GAUSSIAN, z, 1.0, Poisson(q), dimension=dimension)
        return epsilon_of(
            {one: steps},
            delta=delta,
            relation=Relation.ADD_REMOVE,
            unit=PrivacyUnit.RECORD,
            accountant=accountant,
        ).value

    by_divergence = sorted(((loss(case, "rdp"), case) for case in worst), reverse=True)
    if not exact:
        return max((bound for bound, _ in by_divergence), default=0.0)
    found = 0.0
    for bound, case in by_divergence:
        if bound <= found:
            break
        found = max(found, min(bound, loss(case, "auto")))
    return found


def _cases(local: Local, client: Trainings) -> Iterator[tuple[float, int]]:
    """Yield sampling rates with numbers of steps, one of which is that of the client or more."""
    if not client.times:
        return
    size = local.batch_size
    if local.steps is not None or size is None:
        yield sampling_rate(local, client.least), steps_of(local, client.least) * client.times
        return
    first, last = -(-client.least // size), -(-client.most // size)
    stride = max(1, -(-(last - first + 1) // MOST_CASES))
    for batches in range(first, last + 1, stride):
        fewest = max(client.least, (batches - 1) * size + 1)
        most = min(batches + stride - 1, last)
        yield sampling_rate(local, fewest), local.epochs * most * client.times


def _frontier(cases: Iterable[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return the cases that no other one exceeds in both numbers, the most steps first."""
    kept: list[tuple[float, int]] = []
    for rate, steps in sorted(set(cases), key=lambda case: (-case[1], -case[0])):
        if not kept or rate > kept[-1][0]:
            kept.append((rate, steps))
    return kept


def _grouped(cases: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return few cases, of which one is at least as large as any of the many."""
    size = max(1, -(-len(cases) // MOST_CASES))
    parts = (cases[at : at + size] for at in range(0, len(cases), size))
    return [(part[-1][0], part[0][1]) for part in parts]
