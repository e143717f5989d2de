"""One run, on a thread of its own: its commands are done here, and never on the event loop.

The round's logic is in the machines of `choral.federation` and `choral.secagg`. This takes their
commands and what clients do, one after the other, and waits in between. What happened is in the
log before anybody outside hears what follows from it: calls that others can see gather until the
log is durable.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from choral.coordinator import steps
from choral.coordinator.assignments import Assignments, Model
from choral.coordinator.attempts import Attempts
from choral.coordinator.events import harmless
from choral.coordinator.gate import Trigger
from choral.coordinator.opening import Opening
from choral.coordinator.outbox import Outbox
from choral.coordinator.polls import Evaluations
from choral.coordinator.population import Population
from choral.coordinator.spool import SpoolFile
from choral.coordinator.sums import RemoteSum
from choral.coordinator.tickets import (
    Arrived,
    Drain,
    GaveUp,
    Left,
    Message,
    Open,
    Reported,
    Said,
    Seen,
    Stop,
    Ticket,
    Use,
)
from choral.coordinator.timers import Timers
from choral.coordinator.world import World
from choral.core.errors import (
    ChoralError,
    Stale,
    StoreError,
    Unavailable,
    UpdateRejected,
)
from choral.core.failpoints import reach
from choral.core.params import ClientId, Params
from choral.core.plan import Cohort
from choral.core.ports import Observer
from choral.federation import events as ev
from choral.federation.conductor import SHARED, Attempt, Conductor, Restored
from choral.federation.journal import Journal
from choral.federation.participant import Failed, Participant
from choral.federation.setup import RunSetup
from choral.federation.spending import Spending
from choral.federation.sums import Closed, Unreached
from choral.wire.errors import error_of

RENEWAL_S: Final = 2.0
"""How often a deadline that has passed looks whether uploads still make progress."""
LONGEST_S: Final = 3600.0
"""Longest time to wait at once: the system has no word for some of those that people can write."""
BATCH: Final = 256
"""Most messages that are taken before the log is made durable."""


class Actor:
    """Runs one federation whose clients are elsewhere.

    Args:
        setup: The run; its source is `population`.
        population: Its clients.
        trigger: When a round may open.
        participant: For the schema, and to measure on the held-out set.
        first: The first global model.
        journal: Where the run leaves its log and states.
        world: What is outside.
        suits: Why a client does not suit the run; empty where it does.
        spending: The run's part of a privacy ledger, or None.
        auditing: Sees every event, command and failure, at once.
        observers: See the same once it is durable.
        step_s: Seconds that each step of secure aggregation waits for the slow.

    Attributes:
        conductor: What is not this driver's own.
        drained: The process ended before the run did.
        over: The run has ended, or was drained.
        took_part: Clients that were invited at least once.
    """

    def __init__(
        self,
        setup: RunSetup,
        *,
        population: Population,
        trigger: Trigger,
        participant: Participant,
        first: Params,
        journal: Journal,
        world: World,
        suits: Callable[[Any], str],
        spending: Spending | None = None,
        auditing: Iterable[Observer] = (),
        observers: Iterable[Observer] = (),
        step_s: float = 30.0,
    ) -> None:
        self.drained = False
        self._setup = setup
        self._population = population
        self._world = world
        self._step_s = step_s
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._timers = Timers(world.clock)
        self._journal = journal
        self._outbox = Outbox(journal, clock=world.clock, pause=world.pause)
        self._later = self._outbox.add
        self._commands: deque[ev.Command] = deque()
        self._work = Assignments(world, self.post, self._later)
        self._attempts = Attempts(setup, journal, self._work, world=world, show=self._show)
        self._opening = Opening(
            setup, population, trigger, world=world, timers=self._timers, suits=suits
        )
        self._model_bytes = 0
        self.took_part: set[ClientId] = set()
        self.over = False
        self._left = False
        self._unsettled: list[Message] | None = None
        self.conductor = Conductor(
            setup,
            participant=participant,
            first=first,
            journal=journal,
            clock=world.clock,
            new_sum=lambda plan, clients: self._attempts.new(plan, clients, self.conductor.spec),
            spending=spending,
            restore=self._restore,
            observers=(*auditing, *(partial(self._later, harmless(o)) for o in observers)),
            insist=self._outbox.insist,
        )
        self._evaluations = Evaluations(
            setup.evaluation,
            self.conductor,
            participant,
            opening=self._opening,
            work=self._work,
            world=world,
            timers=self._timers,
            outbox=self._outbox,
        )

    def post(self, message: Message) -> None:
        """Tell the run something; from any thread. Uploads for one that is over are refused."""
        self._inbox.put(message)
        if self._left:
            self._turn_away()

    def _turn_away(self) -> None:
        """Answer what nobody will look at any more."""
        goes_on = self.drained or self._unsettled is not None
        gone = Unavailable("the run goes on elsewhere") if goes_on else Stale("it is over")
        with suppress(queue.Empty):
            while True:
                message = self._inbox.get_nowait()
                if isinstance(message, Arrived):
                    message.reply(gone)
                elif isinstance(message, Said):
                    message.heard(not goes_on)

    # --- the loop ---------------------------------------------------------------------------------

    def run(self, *, ready: Callable[[], None]) -> None:
        """Start the run, or go on with the one in the journal, until it ends or is drained.

        Args:
            ready: Called once its open work is known.

        Raises:
            BudgetExhausted: The privacy budget allows no further round; nobody was invited to it.
        """
        try:
            self.start()
            ready()
            while not self.over:
                self.turn(self._wait())
        finally:
            self.leave()
        if self.conductor.refused is not None:
            raise self.conductor.refused

    def start(self) -> None:
        """Start the run, or go on with the one in the journal.

        Raises:
            StoreError: It cannot be read or written.
        """
        self._unsettled = []
        self._world.desk.watch(self.post)
        self._commands.extend(self.conductor.begin())
        self._outbox.insist(self._publish)
        if self.conductor.attempt is not None:
            reach("coordinator.restored")
            self._watch_step(self.conductor.attempt)
        self._settle()

    def _publish(self) -> None:
        self._model_bytes = self._world.publish(self.conductor.released)

    def turn(self, messages: Iterable[Message]) -> None:
        """Do what follows from some messages and from timers that are due."""
        self._unsettled = []
        while (event := self._timers.due()) is not None:
            self._take((event,))
        left = deque(messages)
        while left and not self.over:
            self._unsettled.append(left[0])
            message = left.popleft()
            self._take(_TAKE[type(message)](self, message))
        for message in left:  # they are turned away
            self._inbox.put(message)
        self._settle()

    def leave(self) -> None:
        """Take nothing more. Nobody hears what would follow from what was never stored."""
        self._world.desk.unwatch(self.post)
        if self._unsettled is not None:
            self._outbox.drop()
            for message in self._unsettled:
                self._inbox.put(message)
        if not self.drained:
            self._work.leave()
        self._outbox.send()
        self._left = self.over = True
        self._turn_away()

    def _wait(self) -> list[Message]:
        """Wait for messages or a timer."""
        left, found = self._timers.left_s, []
        with suppress(queue.Empty):
            found.append(self._inbox.get(timeout=None if left is None else min(left, LONGEST_S)))
            while len(found) < BATCH:
                found.append(self._inbox.get_nowait())
        return found

    def _show(self, item: Any) -> None:
        self.conductor.show(item)

    @property
    def waiting(self) -> str:
        """What the run waits for, in words; empty where it does not."""
        return self._outbox.waiting or self._opening.waiting

    @property
    def left_s(self) -> float | None:
        """Seconds until the next timer is due; None where there is none."""
        return self._timers.left_s

    def _take(self, events: Iterable[ev.Event]) -> None:
        """Take events, and do all that follows from them at once."""
        for event in events:
            self._commands.extend(self.conductor.take(event))
            self._do_all()

    def _do_all(self) -> None:
        while self._commands and not self.over:
            command = self._commands.popleft()
            self.conductor.show(command)
            if isinstance(command, ev.Finish):
                self.over = True
                return
            event = self._do(command)
            if event is not None:
                self._commands.extend(self.conductor.take(event))

    def _do(self, command: ev.Command) -> ev.Event | None:
        own = _DO.get(type(command))
        event = own(self, command) if own is not None else None
        if type(command) not in SHARED:
            return event
        done = self._outbox.insist(lambda: self.conductor.do(command))
        after = _AFTER.get(type(command))
        if after is not None:
            after(self, command)
        return done

    def _settle(self) -> None:
        """Do all that is to be done, make it durable, and only then let others see it."""
        self._do_all()
        self._outbox.flush()
        self._unsettled = None
        self._outbox.send()
        if self.over and not self.drained:
            reach("coordinator.finish.stored")

    # --- who takes part ---------------------------------------------------------------------------

    def _choose(self, command: ev.ChooseCohort) -> ev.Event | None:
        return self._opening.choose(command, self.conductor.machine.history)

    # --- a round ----------------------------------------------------------------------------------

    def _invite(self, command: ev.Invite) -> ev.Event | None:
        goes_on = self.conductor.attempt is not None
        attempt = self.conductor.opened(command)
        if not isinstance(attempt, Attempt):
            return attempt
        attempt.bytes_down += self._model_bytes * len(command.clients)
        self.took_part.update(command.clients)
        if goes_on:
            return self._outcome(attempt)
        model = Model(self.conductor.params.sha256, self._model_bytes)
        deadline = self._world.clock.monotonic() + attempt.plan.deadline_s
        self._attempts.opened(attempt.plan, self._model_bytes)
        self._outbox.point("coordinator.round.planned")
        self._work.give(command.clients, attempt.plan, model=model, deadline=deadline)
        self._later(reach, "coordinator.round.told")
        opened = attempt.sum.open(command.clients, ())
        if opened.unreached is not None:
            return ev.SumFailed(command.round, command.attempt, opened.unreached.reason)
        self._watch_step(attempt)
        return None

    def _restore(self, cohort: Cohort, accepted: Sequence[ClientId]) -> Restored | None:
        round_ = self.conductor.machine.round
        failed = () if round_ is None else tuple(round_.failed)
        self.took_part.update(cohort.clients)
        return self._attempts.restore(cohort, accepted, failed, spec=self.conductor.spec)

    def _set_timer(self, command: ev.SetTimer) -> None:
        def happen() -> ev.Event | None:
            current = self.conductor.machine.round
            if current is None or (current.round, current.attempt) != (
                command.round,
                command.attempt,
            ):
                return None
            if command.timer in {"deadline", "grace"} and self._work.moving():
                self._timers.add(RENEWAL_S, happen)
                return None
            return ev.TimerFired(command.round, command.attempt, command.timer)

        self._timers.add(command.after_s, happen)

    def _accepted(self, command: ev.Accumulate) -> None:
        """Send the receipt of what was added."""
        self._outbox.point("coordinator.upload.counted")
        self._work.accepted(command.client)
        self._later(reach, "coordinator.upload.answered")

    def _discarded(self, command: ev.Discard) -> None:
        self._work.turned_down(command.client, command.reason)

    def _closed(self, command: ev.CloseSum) -> None:
        self._journal.step(steps.closed(command.survivors))
        self._outbox.point("coordinator.sealed.fixed")

    def _summed(self, _: ev.CloseSum) -> None:
        reach("coordinator.sum.closed")

    def _released(self, _: ev.Release) -> None:
        reach("coordinator.released")

    def _abandoned(self, _: ev.Abandon) -> None:
        self._work.retire()
        self._later(self._world.kept.drop)

    def _committed(self, _: ev.Commit) -> None:
        reach("coordinator.state.stored")
        self._outbox.point("coordinator.committed.made")
        self._work.end()
        self._later(self._world.kept.drop)
        self._outbox.insist(self._publish)
        reach("coordinator.published")

    # --- secure sums over time --------------------------------------------------------------------

    def _watch_step(self, attempt: Attempt) -> None:
        """Let no step of a secure sum wait for ever."""
        total = attempt.sum
        if not isinstance(total, RemoteSum):
            return
        step = total.step

        def happen() -> ev.Event | None:
            if self.conductor.attempt is not attempt:
                return None
            if total.step == step:
                over = self._world.clock.monotonic() > attempt.started + attempt.plan.deadline_s
                self._journal.step(steps.hurried(give_up=over))
                total.hurry(give_up=over)
            self._watch_step(attempt)
            return self._outcome(attempt)

        self._timers.add(self._step_s, happen)

    def _outcome(self, attempt: Attempt) -> ev.Event | None:
        """Return how a secure sum ended, if it has."""
        total = attempt.sum
        if self.conductor.attempt is not attempt or not isinstance(total, RemoteSum):
            return None
        outcome: Closed | Unreached | None = total.outcome()
        if outcome is None or attempt.total is not None:
            return None
        event = self.conductor.closed(outcome)
        reach("coordinator.sum.closed")
        return event

    # --- what clients do --------------------------------------------------------------------------

    def _current(self, ticket: Ticket) -> Attempt | None:
        """Return the attempt that a ticket belongs to, if it goes on."""
        attempt = self.conductor.attempt
        return attempt if attempt is not None and attempt.plan is ticket.plan else None

    def _known(self, client: ClientId) -> bool:
        """Return whether the round has heard how a client's work ended."""
        round_ = self.conductor.machine.round
        return round_ is not None and (client in round_.failed or client in round_.accepted)

    def _seen(self, _: Seen) -> Iterable[ev.Event]:
        event = self._opening.look()
        return () if event is None else (event,)

    def _arrived(self, message: Arrived) -> Iterable[ev.Event]:
        ticket, client = message.ticket, message.ticket.client
        attempt = self._current(ticket)
        if attempt is None or self._work.answered(client):
            message.reply(Stale("the round is over, or this upload came before"))
            return
        header = message.header
        self._journal.step(steps.took(client, header.sha256, header.size_bytes))
        failed = self._add(attempt, client, message.upload)
        if failed is not None:
            error = error_of(failed.code, failed.message, unknown=UpdateRejected)
            self._later(message.reply, error)
            ticket.done = True
            yield self.conductor.note_failed(ticket.plan, failed)
            outcome = self._outcome(attempt)
            if outcome is not None:
                yield outcome
            return
        ticket.done = True
        self._work.hold(message)
        yield ev.UpdateReceived(ticket.plan.round, ticket.plan.attempt, client)
        outcome = self._outcome(attempt)
        if outcome is not None:
            yield outcome

    @staticmethod
    def _add(attempt: Attempt, client: ClientId, upload: SpoolFile) -> Failed | None:
        try:
            return attempt.sum.take(client, upload)
        except ChoralError as error:
            return Failed(client, error.code, str(error))
        except OSError as error:
            return Failed(client, StoreError.code, f"the upload cannot be read: {error.strerror}")

    def _said(self, message: Said) -> Iterable[ev.Event]:
        self._later(message.heard, True)
        attempt = self._current(message.ticket)
        if attempt is None or not isinstance(attempt.sum, RemoteSum):
            return
        client = message.ticket.client
        self._journal.step(steps.said(client, message.body))
        self._outbox.point("coordinator.said.taken")
        failed = attempt.sum.said(client, message.body)
        if failed is not None and not self._known(client):
            message.ticket.done = True
            yield self.conductor.note_failed(message.ticket.plan, failed)
        outcome = self._outcome(attempt)
        if outcome is not None:
            yield outcome

    def _gave_up(self, message: GaveUp) -> Iterable[ev.Event]:
        ticket, client = message.ticket, message.ticket.client
        ticket.done = True
        if ticket.use is Use.EVALUATE:
            yield from self._evaluations.took(ticket, None)
            return
        self._opening.gave_up(client, message.code, message.message)
        attempt = self._current(ticket)
        if attempt is None:
            return
        self._journal.step(steps.lost(client))
        attempt.sum.lose(client)
        if not self._known(client):
            failed = Failed(client, message.code, message.message)
            yield self.conductor.note_failed(ticket.plan, failed)
        outcome = self._outcome(attempt)
        if outcome is not None:
            yield outcome

    def _left_it(self, message: Left) -> Iterable[ev.Event]:
        """Wait no longer for a client that was started anew: its keys are gone."""
        attempt = self._current(message.ticket)
        if attempt is None or not isinstance(attempt.sum, RemoteSum):
            return
        self._journal.step(steps.lost(message.ticket.client))
        attempt.sum.lose(message.ticket.client)
        outcome = self._outcome(attempt)
        if outcome is not None:
            yield outcome

    # --- evaluation -------------------------------------------------------------------------------

    def _evaluate(self, command: ev.Evaluate) -> ev.Event | None:
        return self._evaluations.begin(command, self._model_bytes)

    def _reported(self, message: Reported) -> Iterable[ev.Event]:
        return self._evaluations.reported(message)

    # --- operators --------------------------------------------------------------------------------

    def _stop(self, message: Stop) -> Iterable[ev.Event]:
        return (ev.StopRequested(message.reason),)

    def _open(self, _: Open) -> Iterable[ev.Event]:
        self._opening.asked = True
        return self._seen(Seen())

    def _drain(self, _: Drain) -> Iterable[ev.Event]:
        self.drained = self.over = True
        return ()


_DO: Final[dict[type[Any], Callable[[Actor, Any], ev.Event | None]]] = {
    ev.ChooseCohort: Actor._choose,
    ev.Invite: Actor._invite,
    ev.SetTimer: Actor._set_timer,
    ev.CloseSum: Actor._closed,
    ev.Evaluate: Actor._evaluate,
}
"""Commands that only a deployment does this way."""

_AFTER: Final[dict[type[Any], Callable[[Actor, Any], None]]] = {
    ev.Accumulate: Actor._accepted,
    ev.Discard: Actor._discarded,
    ev.Abandon: Actor._abandoned,
    ev.CloseSum: Actor._summed,
    ev.Release: Actor._released,
    ev.Commit: Actor._committed,
}
"""What is left to do after a command that is done the same way everywhere."""

_TAKE: Final[dict[type[Any], Callable[[Actor, Any], Iterable[ev.Event]]]] = {
    Seen: Actor._seen,
    Arrived: Actor._arrived,
    Said: Actor._said,
    GaveUp: Actor._gave_up,
    Left: Actor._left_it,
    Reported: Actor._reported,
    Stop: Actor._stop,
    Open: Actor._open,
    Drain: Actor._drain,
}
"""Message to what follows from it."""
