"""The machine of a run: rounds one after the other, retried, evaluated, committed."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from choral.core.params import ClientId
from choral.core.selection import History
from choral.federation.events import (
    Aggregated,
    ChooseCohort,
    ClientFailed,
    CohortChosen,
    Commands,
    Committed,
    Discard,
    Evaluate,
    Evaluated,
    Event,
    Finish,
    ModelReleased,
    OverBudget,
    Restarted,
    RoundEvent,
    RunStarted,
    SetTimer,
    StopRequested,
    SumFailed,
    TimerFired,
    UpdateReceived,
)
from choral.federation.policy import RunPolicy
from choral.federation.round import RESTARTED, Phase, RoundMachine

MAX_BACKOFF_S = 86400.0
"""Longest pause between two attempts: a day."""


class RunPhase(enum.StrEnum):
    """Where a run is. `COMPLETED` and `STOPPED` are absorbing; `PAUSED` goes on when restarted."""

    NEW = "new"
    CHOOSING = "choosing"
    ROUND = "round"
    EVALUATING = "evaluating"
    BACKOFF = "backoff"
    PAUSED = "paused"
    COMPLETED = "completed"
    STOPPED = "stopped"


class RunMachine:
    """A synchronous run.

    Attributes:
        phase: Where it is.
        round: The current attempt; None before the first.
        committed: Rounds committed so far.
        reason: Why it paused or stopped; empty otherwise.
    """

    def __init__(self, policy: RunPolicy) -> None:
        self.phase = RunPhase.NEW
        self.round: RoundMachine | None = None
        self.committed = 0
        self.reason = ""
        self._policy = policy
        self._attempt = 1
        self._tries = 0
        self._completed: dict[ClientId, int] = {}
        self._last_seen: dict[ClientId, int] = {}

    @property
    def history(self) -> History:
        """Participation so far, for the selector."""
        return History(self._completed, self._last_seen)

    def receive(self, event: Event) -> Commands:
        """Take an event; return what is to be done now."""
        rule = RUN_TABLE.get((self.phase, type(event)))
        if rule is not None:
            return rule(self, event)
        if isinstance(event, UpdateReceived):
            return (Discard(event.round, event.attempt, event.client, "late"),)
        return ()

    def _begin(self, _: RunStarted) -> Commands:
        return self._choose(attempt=1)

    def _choose(self, *, attempt: int) -> Commands:
        self.phase = RunPhase.CHOOSING
        self._attempt = attempt
        return (ChooseCohort(self.committed + 1, attempt),)

    def _chosen(self, event: CohortChosen) -> Commands:
        if (event.round, event.attempt) != (self.committed + 1, self._attempt):
            return ()
        self.phase = RunPhase.ROUND
        self.round = RoundMachine(event.round, event.attempt, policy=self._policy.round)
        return self._in_round(event)

    def _in_round(self, event: RoundEvent) -> Commands:
        if self.round is None:
            return ()
        commands = self.round.receive(event)
        if self.round.phase is Phase.COMMITTED:
            return (*commands, *self._commit(self.round))
        if self.round.phase is Phase.ABORTED:
            return (*commands, *self._retry(self.round))
        return commands

    def _commit(self, round_: RoundMachine) -> Commands:
        self.committed = round_.round
        self._tries = 0
        for client in round_.accepted:
            self._completed[client] = self._completed.get(client, 0) + 1
            self._last_seen[client] = round_.round
        every = self._policy.evaluate_every
        if self._last or (every and self.committed % every == 0):
            return self._evaluate()
        return self._choose(attempt=1)

    @property
    def _last(self) -> bool:
        return self.committed >= self._policy.rounds

    def _evaluate(self) -> Commands:
        self.phase = RunPhase.EVALUATING
        return (Evaluate(self.committed, self._last),)

    def _evaluated(self, event: Evaluated) -> Commands:
        if event.round != self.committed:
            return ()
        if not self._last:
            return self._choose(attempt=1)
        self.phase = RunPhase.COMPLETED
        return (Finish("completed"),)

    def _retry(self, round_: RoundMachine) -> Commands:
        if round_.reason == RESTARTED:
            self.phase = RunPhase.BACKOFF
            return (SetTimer(round_.round, round_.attempt, "backoff", 0.0),)
        self._tries += 1
        if self._tries > self._policy.round.retries:
            self.phase = RunPhase.PAUSED
            self.reason = round_.reason
            return (Finish("failed", round_.reason),)
        self.phase = RunPhase.BACKOFF
        wait = min(self._policy.round.backoff_s * 2.0 ** min(self._tries - 1, 60), MAX_BACKOFF_S)
        return (SetTimer(round_.round, round_.attempt, "backoff", wait),)

    def _over_budget(self, event: OverBudget) -> Commands:
        if (event.round, event.attempt) != (self.committed + 1, self._attempt):
            return ()
        self.phase = RunPhase.PAUSED
        self.reason = event.reason
        return (Finish("failed", event.reason),)

    def _again(self, event: TimerFired) -> Commands:
        if event.timer != "backoff":
            return ()
        if (event.round, event.attempt) != (self.committed + 1, self._attempt):
            return ()
        return self._choose(attempt=self._attempt + 1)

    def _resume_choosing(self, _: Restarted) -> Commands:
        return self._choose(attempt=self._attempt)

    def _resume_backoff(self, _: Restarted) -> Commands:
        return self._choose(attempt=self._attempt + 1)

    def _resume_paused(self, _: Restarted) -> Commands:
        self._tries = 0
        self.reason = ""
        return self._choose(attempt=self._attempt + 1)

    def _resume_evaluating(self, _: Restarted) -> Commands:
        return self._evaluate()

    def _resume_completed(self, _: Restarted) -> Commands:
        return (Finish("completed"),)

    def _resume_stopped(self, _: Restarted) -> Commands:
        return (Finish("stopped", self.reason),)

    def _stop(self, event: StopRequested) -> Commands:
        self.phase = RunPhase.STOPPED
        self.reason = event.reason
        return (Finish("stopped", event.reason),)


_ROUND_EVENTS = (
    UpdateReceived,
    ClientFailed,
    TimerFired,
    Aggregated,
    SumFailed,
    ModelReleased,
    Committed,
    Restarted,
)
_LIVE = (
    RunPhase.NEW,
    RunPhase.CHOOSING,
    RunPhase.ROUND,
    RunPhase.EVALUATING,
    RunPhase.BACKOFF,
    RunPhase.PAUSED,
)

RUN_TABLE: dict[tuple[RunPhase, type[Any]], Callable[[RunMachine, Any], Commands]] = {
    (RunPhase.NEW, RunStarted): RunMachine._begin,
    (RunPhase.CHOOSING, CohortChosen): RunMachine._chosen,
    (RunPhase.CHOOSING, Restarted): RunMachine._resume_choosing,
    **{(RunPhase.ROUND, kind): RunMachine._in_round for kind in _ROUND_EVENTS},
    (RunPhase.ROUND, OverBudget): RunMachine._over_budget,
    (RunPhase.EVALUATING, Evaluated): RunMachine._evaluated,
    (RunPhase.EVALUATING, Restarted): RunMachine._resume_evaluating,
    (RunPhase.BACKOFF, TimerFired): RunMachine._again,
    (RunPhase.BACKOFF, Restarted): RunMachine._resume_backoff,
    (RunPhase.PAUSED, Restarted): RunMachine._resume_paused,
    (RunPhase.COMPLETED, Restarted): RunMachine._resume_completed,
    (RunPhase.STOPPED, Restarted): RunMachine._resume_stopped,
    **{(phase, StopRequested): RunMachine._stop for phase in _LIVE},
}
"""(phase, event) to rule. Everything else is ignored."""
