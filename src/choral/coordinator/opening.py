"""When a run's next attempt opens, and with whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from choral.coordinator.gate import Scene, Trigger, may_open
from choral.coordinator.population import Population
from choral.coordinator.timers import Timers
from choral.coordinator.world import World
from choral.core.errors import (
    BudgetExhausted,
    ConfigError,
    PlanError,
    Refused,
    RolledBackAudit,
    RolledBackLedger,
    TamperedLedger,
)
from choral.core.params import ClientId
from choral.core.selection import Draft, History
from choral.federation import events as ev
from choral.federation.setup import RunSetup

_SITES_OWN: Final = frozenset(
    error.code
    for error in (Refused, BudgetExhausted, TamperedLedger, RolledBackLedger, RolledBackAudit)
)
"""Codes of what a site's own policy, ledger or memory says."""


class Opening:
    """Chooses the clients of an attempt once it may open.

    Args:
        setup: The run.
        population: Its clients.
        trigger: When a round may open.
        world: What is outside.
        timers: For times that may change the answer.
        suits: Why a client does not suit the run; empty where it does.

    Attributes:
        waiting: What it waits for, in words; empty where it does not.
        asked: An operator asked for the next round.
    """

    def __init__(
        self,
        setup: RunSetup,
        population: Population,
        trigger: Trigger,
        *,
        world: World,
        timers: Timers,
        suits: Callable[[Any], str],
    ) -> None:
        self.waiting = ""
        self.asked = False
        self._setup = setup
        self._population = population
        self._trigger = trigger
        self._world = world
        self._timers = timers
        self._suits = suits
        self._unfit: dict[ClientId, str] = {}
        self._history = History({}, {})
        self._choosing: ev.ChooseCohort | None = None
        self._looking_again = False
        self._enough_at: float | None = None
        self._opened_at: float | None = None
        self._quorums: dict[int, int] = {}

    def choose(self, command: ev.ChooseCohort, history: History) -> ev.Event | None:
        """Open an attempt as soon as it may be opened."""
        self._choosing, self._history = command, history
        return self.look()

    def look(self) -> ev.Event | None:
        """Open the next attempt, if it may be opened now."""
        command = self._choosing
        if command is None:
            return None
        self.look_around()
        setup, ids = self._setup, self._population.ids
        wanted = setup.policy.round.invited(setup.population)
        verdict = may_open(self._trigger, self._scene(wanted))
        self.waiting = verdict.reason
        if not verdict.open:
            if verdict.again_s is not None and not self._looking_again:
                self._looking_again = True
                self._timers.add(verdict.again_s, self._look_again)
            return None
        draft = Draft(command.round, command.attempt, min(wanted, len(ids)))
        key = setup.key.fold("selection", command.round, command.attempt)
        try:
            clients = setup.selector(self._population, draft, self._history, key)
        except ConfigError as error:  # labels are clients' own words: others may come
            self.waiting = f"no cohort can be chosen of those who are there: {error}"
            return None
        self._choosing, self.asked = None, False
        self._opened_at = self._world.clock.monotonic()
        return ev.CohortChosen(command.round, command.attempt, tuple(clients))

    def _look_again(self) -> ev.Event | None:
        self._looking_again = False
        return self.look()

    def look_around(self) -> None:
        """See who is available and suits the run."""
        suitable = []
        for join in self._world.desk.offers():
            why = self._unfit.get(join.client) or self._suits(join)
            self._world.desk.refuse(join.client, why)
            if not why:
                suitable.append(join)
        self._population.update(suitable)

    def to_measure(self, accepted: Iterable[ClientId]) -> tuple[ClientId, ...]:
        """Return who can be asked to measure a model: those who are available and suit the run.

        A client whose work goes on does not ask for other work, so this process may not have met
        it yet: it is there all the same.

        Args:
            accepted: Clients that are in the round's sum.
        """
        self.look_around()
        met = self._world.desk.presences()
        working = (client for client in accepted if client not in met)
        return tuple(dict.fromkeys((*self._population.ids, *working)))

    def gave_up(self, client: ClientId, code: str, why: str) -> None:
        """Never choose a client again whose site takes no part in the run, however often asked."""
        if code in _SITES_OWN:
            self._unfit[client] = why
            self._world.desk.refuse(client, why)

    def _scene(self, wanted: int) -> Scene:
        now = self._world.clock.monotonic()
        ids = self._population.ids
        quorum = self._quorum(wanted)
        if len(ids) < quorum or self._quorum(min(len(ids), wanted)) > len(ids):
            self._enough_at = None
        elif self._enough_at is None:
            self._enough_at = now
        return Scene(
            available=len(ids),
            wanted=wanted,
            quorum=quorum,
            examples=sum(self._population.examples(c) or 0 for c in ids),
            enough_s=None if self._enough_at is None else now - self._enough_at,
            opened_s=float("inf") if self._opened_at is None else now - self._opened_at,
            asked=self.asked,
        )

    def _quorum(self, clients: int) -> int:
        """Return how many of so many invited clients a round needs; more where it cannot be."""
        if clients not in self._quorums:
            names = tuple(ClientId(str(i)) for i in range(clients))
            try:
                self._quorums[clients] = self._setup.policy.round.cohort(names).quorum
            except PlanError:
                self._quorums[clients] = clients + 1
        return self._quorums[clients]
