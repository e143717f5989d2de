"""Selecting a cohort: pure, so that a selection can be replayed from the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from choral.core.keys import Key
from choral.core.params import ClientId

Strata = Mapping[str, str]
"""Declared labels of a client, such as `{"region": "north"}`."""


class Population(Protocol):
    """All clients that could be asked, in a fixed order; a million of them cost no memory."""

    @property
    def ids(self) -> Sequence[ClientId]:
        """Ids in the population's order, without repeats."""
        ...

    def strata(self, client: ClientId) -> Strata:
        """Return the declared labels of a client; empty where it declared none."""
        ...


@dataclass(frozen=True, slots=True)
class Draft:
    """What is known of a round when its cohort is chosen.

    Attributes:
        round: Counted from 1.
        attempt: Counted from 1.
        count: Clients to choose, 1 to the size of the population.
    """

    round: int
    attempt: int
    count: int


@dataclass(frozen=True, slots=True)
class History:
    """Who completed which rounds so far; clients never seen are absent.

    Attributes:
        completed: Client to the number of rounds it completed.
        last_seen: Client to the last round it completed.
    """

    completed: Mapping[ClientId, int]
    last_seen: Mapping[ClientId, int]


class Selector(Protocol):
    """Chooses the cohort of a round."""

    @property
    def name(self) -> str:
        """The name that configuration writes."""
        ...

    def __call__(
        self, population: Population, draft: Draft, history: History, key: Key
    ) -> tuple[ClientId, ...]:
        """Return distinct clients of the population.

        Args:
            population: All clients.
            draft: Round, attempt and how many; a Poisson selector takes the count as its
                expectation.
            history: Participation so far.
            key: Key of (run, round, attempt, "selection").
        """
        ...
