"""When a round is over, and how often it is tried: one object, not a hundred timeouts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from choral.core.aggregation import Secure
from choral.core.checks import real, whole
from choral.core.errors import ConfigError
from choral.core.params import ClientId
from choral.core.plan import Cohort
from choral.federation.secure import quorum_of


@dataclass(frozen=True, slots=True)
class RoundPolicy:
    """The terms on which a round closes.

    Attributes:
        clients: Clients whose updates a round wants, at least 1.
        goal: Completed clients that close it at once; None stands for `clients`.
        quorum: Completed clients that are enough at the deadline; None stands for the majority
            of the goal, at least 2 where the goal is.
        over_selection: Factor of clients invited beyond the goal, at least 1.
        deadline_s: Seconds until the round takes what is there, above 0.
        grace_s: Seconds that a round below its quorum waits on after its deadline.
        retries: Attempts beyond the first before the run pauses.
        backoff_s: Seconds before the first retry; doubled for each further one.
        secure: Terms of secure aggregation: no round closes below what its sums need.
        whole: A round waits for its whole cohort, however many were drawn, and takes whoever has
            answered at the deadline. One of nobody is a round like any other: where it were drawn
            anew, whoever was drawn alone and was lost would show by that.
    """

    clients: int
    goal: int | None = None
    quorum: int | None = None
    over_selection: float = 1.0
    deadline_s: float = 600.0
    grace_s: float = 0.0
    retries: int = 3
    backoff_s: float = 1.0
    secure: Secure | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        checked: dict[str, float | None] = {
            "clients": whole("clients_per_round", self.clients, least=1),
            "retries": whole("round.retries", self.retries, least=0),
            "over_selection": real("round.over_selection", self.over_selection, least=1),
            "deadline_s": real("round.deadline_s", self.deadline_s, above=0),
            "grace_s": real("round.grace_s", self.grace_s, least=0),
            "backoff_s": real("round.backoff_s", self.backoff_s, least=0),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        self._check_closing()

    def _check_closing(self) -> None:
        """Check the goal against `clients`, and the quorum against the goal."""
        most = self.clients
        for name in ("goal", "quorum"):
            value = getattr(self, name)
            if value is not None:
                most = whole(f"round.{name}", value, least=1, most=most)
                object.__setattr__(self, name, most)

    def invited(self, population: int) -> int:
        """Return how many clients to invite from a population of this size.

        >>> RoundPolicy(clients=10, over_selection=1.3).invited(100)
        13
        """
        return min(population, math.ceil(round(self.clients * self.over_selection, 9)))

    def cohort(self, clients: tuple[ClientId, ...]) -> Cohort:
        """Return the goal and quorum of the clients that were really chosen.

        >>> RoundPolicy(clients=4).cohort(tuple("abcd")).quorum
        3
        """
        if self.whole:
            return Cohort(clients, len(clients), 0)
        goal = min(self.clients if self.goal is None else self.goal, len(clients))
        quorum = min(goal, max(2, goal // 2 + 1)) if self.quorum is None else self.quorum
        if self.secure is not None and clients:
            quorum = max(quorum, quorum_of(self.secure, len(clients)))
        return Cohort(clients, max(goal, quorum), quorum)


def clients_of(asked: float | None, population: int) -> int:
    """Return how many clients a round wants.

    Args:
        asked: A count, a fraction of the population in (0, 1), or None for everyone. The number 1
            is a count.
        population: Number of clients.

    >>> clients_of(0.1, 95), clients_of(4, 95), clients_of(None, 95)
    (10, 4, 95)
    """
    if asked is None:
        return population
    wanted = real("clients_per_round", asked, above=0)
    if wanted < 1:
        return max(1, math.ceil(round(wanted * population, 9)))
    if not wanted.is_integer():
        raise ConfigError(f"clients_per_round {asked!r}: expected a count or a fraction in (0, 1)")
    return int(wanted)


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """How long a run goes on.

    Attributes:
        rounds: Rounds to commit, at least 1.
        round: Terms of each round.
        evaluate_every: Rounds between evaluations; the last round is always evaluated. 0 stands
            for the last round alone.
    """

    rounds: int
    round: RoundPolicy
    evaluate_every: int = 1

    def __post_init__(self) -> None:
        every = whole("evaluation.every", self.evaluate_every, least=0)
        object.__setattr__(self, "rounds", whole("rounds", self.rounds, least=1))
        object.__setattr__(self, "evaluate_every", every)
