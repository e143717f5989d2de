"""Whom a run has reached: shares per stratum, fairness, and who was not seen for long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from choral.core.selection import History, Population

UNLABELLED = "(none)"
"""Stratum of the clients that did not declare the label."""


@dataclass(frozen=True, slots=True)
class StratumCoverage:
    """One stratum.

    Attributes:
        clients: Clients in it.
        participations: Rounds that its clients completed, together.
        population_share: Its clients over all clients.
        participation_share: Its participations over all; None where there were none.
    """

    clients: int
    participations: int
    population_share: float
    participation_share: float | None


@dataclass(frozen=True, slots=True)
class Coverage:
    """Participation over a population. What is not defined is None.

    Attributes:
        clients: Clients in the population.
        seen: Those that completed a round.
        never_seen: Those that did not.
        participations: Completed rounds of all clients together.
        jain: Jain's fairness index of the clients' completed rounds, 1 / clients (always the same
            client) to 1 (everyone equally often).
        rounds_since_mean: Mean over the clients seen of the rounds since they last completed one.
        rounds_since_max: The longest of them.
        strata: Stratum to its coverage, or None where no label was asked for.
    """

    clients: int
    seen: int
    never_seen: int
    participations: int
    jain: float | None
    rounds_since_mean: float | None
    rounds_since_max: int | None
    strata: Mapping[str, StratumCoverage] | None

    def as_json(self) -> dict[str, Any]:
        """Return all of it as a JSON object."""
        return asdict(self)


def coverage(
    population: Population, history: History, *, by: str | None = None, round: int | None = None
) -> Coverage:
    """Return whom the rounds so far have reached.

    Jain's index is (sum x)^2 / (n * sum x^2) over all n clients, those never seen included. Source:
    Jain, Chiu, Hawe, "A Quantitative Measure of Fairness and Discrimination for Resource
    Allocation in Shared Computer Systems", 1984.

    Without `by`, the cost is that of the history; with it, the labels of all clients are read.

    Args:
        population: All clients.
        history: Participation of clients of this population.
        by: Label whose strata are compared. Clients without it count as the stratum `(none)`.
        round: The present round, from which "rounds since" count; by default the last round that
            anyone completed.

    >>> from choral.core.params import ClientId
    >>> class Four:
    ...     ids = [ClientId(c) for c in "abcd"]
    ...     def strata(self, client): return {"region": "north" if client == "a" else "south"}
    >>> a, b = ClientId("a"), ClientId("b")
    >>> found = coverage(Four(), History({a: 3, b: 1}, {a: 3, b: 1}), by="region")
    >>> found.jain, found.never_seen, found.rounds_since_max
    (0.4, 2, 2)
    >>> found.strata["north"].population_share, found.strata["north"].participation_share
    (0.25, 0.75)
    """
    clients = len(population.ids)
    counts = history.completed.values()
    total = sum(counts)
    squares = sum(x * x for x in counts)
    seen = sum(1 for x in counts if x > 0)
    last = history.last_seen.values()
    now = max(last, default=0) if round is None else round
    return Coverage(
        clients=clients,
        seen=seen,
        never_seen=clients - seen,
        participations=total,
        jain=total * total / (clients * squares) if squares else None,
        rounds_since_mean=now - sum(last) / len(last) if last else None,
        rounds_since_max=now - min(last) if last else None,
        strata=None if by is None else _strata(population, history, by, total),
    )


def _strata(
    population: Population, history: History, by: str, total: int
) -> dict[str, StratumCoverage]:
    """Return the coverage of each stratum, labels sorted."""
    sizes: dict[str, int] = {}
    rounds: dict[str, int] = {}
    ids = population.ids
    for client in ids:
        label = population.strata(client).get(by, UNLABELLED)
        sizes[label] = sizes.get(label, 0) + 1
        rounds[label] = rounds.get(label, 0) + history.completed.get(client, 0)
    return {
        label: StratumCoverage(
            clients=sizes[label],
            participations=rounds[label],
            population_share=sizes[label] / len(ids),
            participation_share=rounds[label] / total if total else None,
        )
        for label in sorted(sizes)
    }
