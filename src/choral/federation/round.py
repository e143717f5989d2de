"""The machine of one attempt at a round.

`receive(event)` returns commands; it reads no clock, draws nothing, sends nothing. What may happen
in which phase stands in `ROUND_TABLE`; an event without an entry changes nothing, because networks
repeat, reorder and delay. A client is added to the sum once: `Accumulate` is given for the first
contribution of an invited client while the attempt is collecting, and never again.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from choral.core.errors import NoQuorum, RoundSpent, RunFailed
from choral.core.params import ClientId
from choral.core.plan import Cohort
from choral.federation.events import (
    Abandon,
    Accumulate,
    Aggregated,
    ClientFailed,
    CloseSum,
    CohortChosen,
    Commands,
    Commit,
    Committed,
    Discard,
    Invite,
    ModelReleased,
    Release,
    Restarted,
    RoundEvent,
    SetTimer,
    SumFailed,
    TimerFired,
    UpdateReceived,
)
from choral.federation.policy import RoundPolicy


class Phase(enum.StrEnum):
    """Where an attempt is. `COMMITTED` and `ABORTED` are absorbing."""

    PLANNED = "planned"
    COLLECTING = "collecting"
    GRACE = "grace"
    SEALED = "sealed"
    AGGREGATED = "aggregated"
    RELEASED = "released"
    COMMITTED = "committed"
    ABORTED = "aborted"


RESTARTED = "restarted"
"""Why an attempt was aborted that nobody could go on with: no fault of its clients."""

ENDS = frozenset({Phase.COMMITTED, Phase.ABORTED})
OPEN = frozenset({Phase.COLLECTING, Phase.GRACE})


class RoundMachine:
    """One attempt, from the chosen cohort to the committed model or the reason why not.

    Attributes:
        round: Counted from 1.
        attempt: Counted from 1.
        phase: Where it is.
        cohort: The chosen clients with goal and quorum, which the plan is made from; None before
            they are chosen.
        accepted: Clients in the sum, in the order in which they came.
        failed: Clients that failed, with code and message.
        reason: Why it was aborted; empty otherwise.
    """

    def __init__(self, round: int, attempt: int, *, policy: RoundPolicy) -> None:
        self.round = round
        self.attempt = attempt
        self.phase = Phase.PLANNED
        self.cohort: Cohort | None = None
        self.accepted: dict[ClientId, None] = {}
        self.failed: dict[ClientId, tuple[str, str]] = {}
        self.reason = ""
        self._policy = policy
        self._invited: frozenset[ClientId] = frozenset()
        self._goal = 0

    @property
    def dropped(self) -> int:
        """Invited clients that failed or, until the goal is reached, have not answered."""
        if len(self.accepted) >= self._goal:
            return len(self.failed)
        return len(self._invited) - len(self.accepted)

    def receive(self, event: RoundEvent) -> Commands:
        """Take an event of this round; return what is to be done now."""
        attempt = getattr(event, "attempt", self.attempt)
        if (getattr(event, "round", self.round), attempt) != (self.round, self.attempt):
            return self._stale(event)
        rule = ROUND_TABLE.get((self.phase, type(event)))
        return rule(self, event) if rule else ()

    def _stale(self, event: RoundEvent) -> Commands:
        if isinstance(event, UpdateReceived):
            return (Discard(event.round, event.attempt, event.client, "stale"),)
        return ()

    def _open(self, event: CohortChosen) -> Commands:
        cohort = self._policy.cohort(event.clients)
        self.cohort = cohort
        self._invited = frozenset(cohort.clients)
        self._goal = cohort.goal
        if len(self._invited) != len(cohort.clients):
            raise RunFailed(f"round {self.round}: a client was chosen twice: {cohort.clients}")
        if not cohort.clients and not self._policy.whole:
            return self._abort("empty_cohort")
        if len(cohort.clients) < cohort.quorum:
            return self._short()
        if not cohort.clients:
            return self._empty()
        self.phase = Phase.COLLECTING
        return (
            SetTimer(self.round, self.attempt, "deadline", self._policy.deadline_s),
            Invite(self.round, self.attempt, cohort.clients),
        )

    def _empty(self) -> Commands:
        """Go on with a cohort of nobody: whether anybody was drawn is nobody's business."""
        return (Invite(self.round, self.attempt, ()), *self._seal())

    def _accept(self, event: UpdateReceived) -> Commands:
        if event.client not in self._invited:
            return self._discard(event, "uninvited")
        if event.client in self.accepted:
            return self._discard(event, "duplicate")
        self.accepted[event.client] = None
        self.failed.pop(event.client, None)
        return (Accumulate(self.round, self.attempt, event.client), *self._after_report())

    def _late(self, event: UpdateReceived) -> Commands:
        known = event.client in self.accepted
        return self._discard(event, "duplicate" if known else "late")

    def _discard(self, event: UpdateReceived, reason: str) -> Commands:
        return (Discard(self.round, self.attempt, event.client, reason),)

    def _fail(self, event: ClientFailed) -> Commands:
        if event.client not in self._invited or event.client in self.accepted:
            return ()
        self.failed[event.client] = (event.code, event.message)
        return self._after_report()

    def _after_report(self) -> Commands:
        """Seal or give up as soon as no further report could change the outcome."""
        cohort = self._chosen()
        done = len(self.accepted)
        open_ = len(self._invited) - done - len(self.failed)
        if done >= self._goal or (done >= cohort.quorum and not open_):
            return self._seal()
        if self.phase is Phase.GRACE and done >= cohort.quorum:
            return self._seal()
        if done + open_ < cohort.quorum:
            return self._short()
        return ()

    def _timer(self, event: TimerFired) -> Commands:
        cohort = self._chosen()
        if event.timer == "deadline" and self.phase is Phase.COLLECTING:
            if len(self.accepted) >= cohort.quorum:
                return self._seal()
            if self._policy.grace_s > 0:
                self.phase = Phase.GRACE
                return (SetTimer(self.round, self.attempt, "grace", self._policy.grace_s),)
            return self._short()
        if event.timer == "grace" and self.phase is Phase.GRACE:
            return self._short()
        return ()

    def _seal(self) -> Commands:
        self.phase = Phase.SEALED
        return (CloseSum(self.round, self.attempt, tuple(self.accepted)),)

    def _abort(self, reason: str) -> Commands:
        self.phase = Phase.ABORTED
        self.reason = reason
        return (Abandon(self.round, self.attempt, reason),)

    def _short(self) -> Commands:
        """Give up for want of clients; say so where too few are left that may join another sum."""
        spent = sum(code == RoundSpent.code for code, _ in self.failed.values())
        for_good = spent and len(self._invited) - spent < self._chosen().quorum
        return self._abort(RoundSpent.code if for_good else NoQuorum.code)

    def _aggregated(self, event: Aggregated) -> Commands:
        for client in event.left_out:
            self.accepted.pop(client, None)
            self.failed[client] = ("group_without_sum", "its group reached no sum of its own")
        if event.count != len(self.accepted):
            raise RunFailed(
                f"round {self.round}: {event.count} contributions in a sum of "
                f"{len(self.accepted)} clients"
            )
        self.phase = Phase.AGGREGATED
        return (Release(self.round, self.attempt),)

    def _unsummed(self, event: SumFailed) -> Commands:
        return self._abort(event.reason)

    def _released(self, _: ModelReleased) -> Commands:
        self.phase = Phase.RELEASED
        return (Commit(self.round, self.attempt),)

    def _committed(self, _: Committed) -> Commands:
        self.phase = Phase.COMMITTED
        return ()

    def _restart(self, event: Restarted) -> Commands:
        """Go on with the contributions that are left; ask again for the ones that were lost.

        A sealed attempt keeps its survivors, so that the restarted round gives the same model. A
        secure one whose steps were not kept is over: clients answer an attempt once.
        """
        if self._policy.secure is not None and not event.intact:
            return self._abort(RESTARTED)
        held = dict.fromkeys(c for c in event.held if c in self.accepted)
        sealed = self.phase not in OPEN
        if sealed and not self.accepted:
            return self._empty()
        if sealed and len(held) == len(self.accepted):
            return self._seal()
        if sealed:
            self._invited = frozenset(self.accepted)
            self._goal = len(self._invited)
        wanted = tuple(self.accepted) if sealed else self._chosen().clients
        self.phase = Phase.COLLECTING
        self.accepted = held
        self.failed = {c: why for c, why in self.failed.items() if c in self._invited}
        asked = tuple(c for c in wanted if c not in held and c not in self.failed)
        return (
            SetTimer(self.round, self.attempt, "deadline", self._policy.deadline_s),
            Invite(self.round, self.attempt, asked),
        )

    def _chosen(self) -> Cohort:
        if self.cohort is None:
            raise RunFailed(f"round {self.round} has no cohort yet")
        return self.cohort


ROUND_TABLE: dict[tuple[Phase, type[Any]], Callable[[RoundMachine, Any], Commands]] = {
    (Phase.PLANNED, CohortChosen): RoundMachine._open,
    (Phase.COLLECTING, UpdateReceived): RoundMachine._accept,
    (Phase.COLLECTING, ClientFailed): RoundMachine._fail,
    (Phase.COLLECTING, TimerFired): RoundMachine._timer,
    (Phase.COLLECTING, Restarted): RoundMachine._restart,
    (Phase.COLLECTING, SumFailed): RoundMachine._unsummed,
    (Phase.GRACE, UpdateReceived): RoundMachine._accept,
    (Phase.GRACE, ClientFailed): RoundMachine._fail,
    (Phase.GRACE, TimerFired): RoundMachine._timer,
    (Phase.GRACE, Restarted): RoundMachine._restart,
    (Phase.GRACE, SumFailed): RoundMachine._unsummed,
    (Phase.SEALED, UpdateReceived): RoundMachine._late,
    (Phase.SEALED, Aggregated): RoundMachine._aggregated,
    (Phase.SEALED, Restarted): RoundMachine._restart,
    (Phase.SEALED, SumFailed): RoundMachine._unsummed,
    (Phase.AGGREGATED, UpdateReceived): RoundMachine._late,
    (Phase.AGGREGATED, ModelReleased): RoundMachine._released,
    (Phase.AGGREGATED, Restarted): RoundMachine._restart,
    (Phase.RELEASED, UpdateReceived): RoundMachine._late,
    (Phase.RELEASED, Committed): RoundMachine._committed,
    (Phase.RELEASED, Restarted): RoundMachine._restart,
    (Phase.COMMITTED, UpdateReceived): RoundMachine._late,
    (Phase.ABORTED, UpdateReceived): RoundMachine._late,
}
"""(phase, event) to rule. Everything else is ignored."""
