"""One run, on a thread of its own: its commands are done here, and never on the event loop.

The round's logic is in the machines of `choral.federation` and `choral.secagg`. This takes their
commands and what clients do, one after the other, and waits in between.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from choral.coordinator.gate import Scene, Trigger, may_open
from choral.coordinator.polls import Poll
from choral.coordinator.population import Population
from choral.coordinator.spool import SpoolFile
from choral.coordinator.sums import RemoteSum, SpooledSum
from choral.coordinator.tickets import (
    Arrived,
    Drain,
    GaveUp,
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
from choral.coordinator.transfers import WINDOW_S
from choral.coordinator.world import World
from choral.core.aggregation import Secure
from choral.core.errors import (
    ChoralError,
    ConfigError,
    PlanError,
    Stale,
    StoreError,
    UpdateRejected,
)
from choral.core.params import ClientId, Params
from choral.core.plan import Plan
from choral.core.ports import Observer
from choral.core.selection import Draft
from choral.federation import events as ev
from choral.federation.conductor import SHARED, Attempt, Conductor
from choral.federation.evaluation import Measured, asks_clients, measurement
from choral.federation.journal import Journal
from choral.federation.participant import Failed, Participant
from choral.federation.setup import RunSetup
from choral.federation.sums import Closed, Sum, Unreached
from choral.secagg.enrolment import authority_id
from choral.wire.errors import error_of
from choral.wire.receipts import Receipt

TOKEN_BYTES: Final = 16
RENEWAL_S: Final = 2.0
"""How often a deadline that has passed looks whether uploads still make progress."""
LONGEST_S: Final = 3600.0
"""Longest time to wait at once: the system has no word for some of those that people can write."""
EVALUATION_S: Final = 60.0
"""Longest wait for clients' own evaluations."""


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
        observers: See every event, command and failure.
        step_s: Seconds that each step of secure aggregation waits for the slow.

    Attributes:
        conductor: What is not this driver's own.
        waiting: What the run waits for, in words; empty where it does not.
        drained: The process ended before the run did.
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
        observers: Iterable[Observer] = (),
        step_s: float = 30.0,
    ) -> None:
        self.waiting = ""
        self.drained = False
        self._setup = setup
        self._population = population
        self._trigger = trigger
        self._participant = participant
        self._world = world
        self._suits = suits
        self._step_s = step_s
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._timers = Timers(world.clock)
        self._looking_again = False
        self._tickets: dict[ClientId, Ticket] = {}
        self._before: list[Ticket] = []
        self._replies: dict[ClientId, Callable[[Receipt | ChoralError], None]] = {}
        self._receipts: dict[ClientId, Receipt] = {}
        self._unfit: dict[ClientId, str] = {}
        self._choosing: ev.ChooseCohort | None = None
        self._enough_at: float | None = None
        self._opened_at: float | None = None
        self._asked = False
        self._poll: Poll | None = None
        self._model_bytes = 0
        self.took_part: set[ClientId] = set()
        self._quorums: dict[int, int] = {}
        self._over = False
        self.conductor = Conductor(
            setup,
            participant=participant,
            first=first,
            journal=journal,
            clock=world.clock,
            new_sum=self._sum,
            observers=observers,
        )

    def post(self, message: Message) -> None:
        """Tell the run something; from any thread. Uploads for one that is over are refused."""
        self._inbox.put(message)
        if self._over:
            self._turn_away()

    def _turn_away(self) -> None:
        """Answer what nobody will look at any more."""
        with suppress(queue.Empty):
            while True:
                message = self._inbox.get_nowait()
                if isinstance(message, Arrived):
                    message.reply(Stale("the run is over"))

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Start the run, or go on with the one in the journal, until it ends or is drained."""
        self._world.desk.watch(self.post)
        try:
            commands = deque(self.conductor.begin())
            self._model_bytes = self._world.publish(self.conductor.params)
            while True:
                while commands:
                    command = commands.popleft()
                    self.conductor.show(command)
                    if isinstance(command, ev.Finish):
                        self.conductor.finish()
                        return
                    event = self._do(command)
                    if event is not None:
                        commands.extend(self.conductor.take(event))
                for event in self._next():
                    commands.extend(self.conductor.take(event))
                if self.drained:
                    self.conductor.finish()
                    return
        finally:
            self._world.desk.unwatch(self.post)
            self._retire()
            self._world.desk.forget(self._before)
            self._over = True
            self._turn_away()

    def _do(self, command: ev.Command) -> ev.Event | None:
        own = _DO.get(type(command))
        event = own(self, command) if own is not None else None
        if type(command) not in SHARED:
            return event
        done = self.conductor.do(command)
        after = _AFTER.get(type(command))
        if after is not None:
            after(self, command)
        return done

    def _next(self) -> list[ev.Event]:
        """Wait for a message or a timer; return what follows from it."""
        event = self._timers.due()
        if event is not None:
            return [event]
        left = self._timers.left_s
        try:
            message = self._inbox.get(timeout=None if left is None else min(left, LONGEST_S))
        except queue.Empty:
            return []
        return list(_TAKE[type(message)](self, message))

    # --- who takes part ---------------------------------------------------------------------------

    def _choose(self, command: ev.ChooseCohort) -> ev.Event | None:
        self._choosing = command
        return self._try_to_choose()

    def _try_to_choose(self) -> ev.Event | None:
        """Open the next attempt, if it may be opened now."""
        command = self._choosing
        if command is None:
            return None
        self._look_around()
        setup, ids = self._setup, self._population.ids
        policy = setup.policy.round
        wanted = policy.invited(setup.population)
        verdict = may_open(self._trigger, self._scene(wanted))
        self.waiting = verdict.reason
        if not verdict.open:
            if verdict.again_s is not None and not self._looking_again:
                self._looking_again = True
                self._timers.add(verdict.again_s, self._look_again)
            return None
        draft = Draft(command.round, command.attempt, min(wanted, len(ids)))
        key = setup.key.fold("selection", command.round, command.attempt)
        history = self.conductor.machine.history
        try:
            clients = setup.selector(self._population, draft, history, key)
        except ConfigError as error:  # labels are clients' own words: others may come
            self.waiting = f"no cohort can be chosen of those who are there: {error}"
            return None
        self._choosing, self._asked = None, False
        self._opened_at = self._world.clock.monotonic()
        return ev.CohortChosen(command.round, command.attempt, tuple(clients))

    def _look_again(self) -> ev.Event | None:
        self._looking_again = False
        return self._try_to_choose()

    def _look_around(self) -> None:
        """See who is available and suits the run."""
        suitable = []
        for join in self._world.desk.offers():
            why = self._unfit.get(join.client) or self._suits(join)
            self._world.desk.refuse(join.client, why)
            if not why:
                suitable.append(join)
        self._population.update(suitable)

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
            asked=self._asked,
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

    # --- a round ----------------------------------------------------------------------------------

    def _invite(self, command: ev.Invite) -> ev.Event | None:
        attempt = self.conductor.opened(command)
        attempt.bytes_down += self._model_bytes * len(command.clients)
        self.took_part.update(command.clients)
        self._retire()
        deadline = self._world.clock.monotonic() + attempt.plan.deadline_s
        self._tickets = {
            client: self._ticket(client, attempt.plan, Use.TRAIN, deadline)
            for client in command.clients
        }
        self._world.desk.assign(tuple(self._tickets.values()))
        opened = attempt.sum.open(command.clients, ())
        if opened.unreached is not None:
            return ev.SumFailed(command.round, command.attempt, opened.unreached.reason)
        self._watch_step(attempt)
        return None

    def _ticket(self, client: ClientId, plan: Plan, use: Use, deadline: float) -> Ticket:
        return Ticket(
            token=self._world.rand.token(TOKEN_BYTES),
            client=client,
            use=use,
            plan=plan,
            model_sha256=self.conductor.params.sha256,
            model_bytes=self._model_bytes,
            deadline=deadline,
            post=self.post,
        )

    def _sum(self, plan: Plan, clients: tuple[ClientId, ...]) -> Sum:
        """Return the empty sum of an attempt."""
        terms, world, spec = self._setup.aggregation, self._world, self.conductor.spec
        if not isinstance(terms, Secure):
            return SpooledSum(plan, spec)
        return RemoteSum(
            plan,
            spec,
            terms=terms,
            clients=clients,
            key=self._setup.key.fold("secure", plan.round, plan.attempt),
            signing_key=world.keys.signing,
            authority=world.keys.authority,
            authority_digest=authority_id(world.keys.authority),
            deadline=int(world.clock.wall() + plan.deadline_s),
            tell=self._tell,
            note=self.conductor.show,
        )

    def _tell(self, client: ClientId, body: bytes) -> None:
        ticket = self._tickets.get(client)
        if ticket is not None:
            self._world.desk.tell(ticket, body)

    def _set_timer(self, command: ev.SetTimer) -> None:
        def happen() -> ev.Event | None:
            current = self.conductor.machine.round
            if current is None or (current.round, current.attempt) != (
                command.round,
                command.attempt,
            ):
                return None
            if command.timer in {"deadline", "grace"} and self._something_moves():
                self._timers.add(RENEWAL_S, happen)
                return None
            return ev.TimerFired(command.round, command.attempt, command.timer)

        self._timers.add(command.after_s, happen)

    def _something_moves(self) -> bool:
        """Return whether an upload makes progress: a deadline does not cut it."""
        now = self._world.clock.monotonic()
        return any(now - t.moved < WINDOW_S and not t.done for t in self._tickets.values())

    def _accepted(self, command: ev.Accumulate) -> None:
        """Send the receipt of what was added."""
        self._reply(command.client, self._receipts.pop(command.client, None))

    def _discarded(self, command: ev.Discard) -> None:
        self._reply(command.client, Stale(f"the contribution is {command.reason}"))

    def _reply(self, client: ClientId, answer: Receipt | ChoralError | None) -> None:
        reply = self._replies.pop(client, None)
        if reply is not None and answer is not None:
            reply(answer)

    def _retire(self) -> None:
        """End the work of the last attempt; forget that of the one before."""
        desk = self._world.desk
        desk.forget(self._before)
        self._before = list(self._tickets.values())
        desk.end(self._before)
        for client in tuple(self._replies):
            self._reply(client, Stale("the attempt is over"))
        self._receipts.clear()

    def _abandoned(self, _: ev.Abandon) -> None:
        self._retire()
        self._tickets = {}

    def _committed(self, _: ev.Commit) -> None:
        self._world.desk.end(self._tickets.values())
        self._model_bytes = self._world.publish(self.conductor.params)

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
        return self.conductor.closed(outcome)

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
        event = self._try_to_choose()
        return () if event is None else (event,)

    def _arrived(self, message: Arrived) -> Iterable[ev.Event]:
        ticket, client = message.ticket, message.ticket.client
        attempt = self._current(ticket)
        if attempt is None or client in self._replies:
            message.reply(Stale("the round is over, or this upload came before"))
            return
        failed = self._take(attempt, client, message.upload)
        if failed is not None:
            message.reply(error_of(failed.code, failed.message, unknown=UpdateRejected))
            message.upload.discard()
            ticket.done = True
            yield self.conductor.note_failed(ticket.plan, failed)
            outcome = self._outcome(attempt)
            if outcome is not None:
                yield outcome
            return
        ticket.done = True
        self._replies[client] = message.reply
        self._receipts[client] = self._receipt(ticket, message)
        yield ev.UpdateReceived(ticket.plan.round, ticket.plan.attempt, client)
        outcome = self._outcome(attempt)
        if outcome is not None:
            yield outcome

    @staticmethod
    def _take(attempt: Attempt, client: ClientId, upload: SpoolFile) -> Failed | None:
        try:
            return attempt.sum.take(client, upload)
        except ChoralError as error:
            return Failed(client, error.code, str(error))
        except OSError as error:
            return Failed(client, StoreError.code, f"the upload cannot be read: {error.strerror}")

    def _receipt(self, ticket: Ticket, message: Arrived) -> Receipt:
        plan = ticket.plan
        bare = Receipt(
            plan.run_id,
            plan.round,
            plan.attempt,
            ticket.client,
            message.header.sha256,
            message.header.size_bytes,
        )
        return replace(bare, signature=self._world.keys.signing.sign(bare.stated()))

    def _said(self, message: Said) -> Iterable[ev.Event]:
        attempt = self._current(message.ticket)
        if attempt is None or not isinstance(attempt.sum, RemoteSum):
            return
        client = message.ticket.client
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
            yield from self._measured(ticket, None)
            return
        if message.code == "refused":
            self._unfit[client] = message.message
            self._world.desk.refuse(client, message.message)
        attempt = self._current(ticket)
        if attempt is None:
            return
        attempt.sum.lose(client)
        if not self._known(client):
            failed = Failed(client, message.code, message.message)
            yield self.conductor.note_failed(ticket.plan, failed)
        outcome = self._outcome(attempt)
        if outcome is not None:
            yield outcome

    # --- evaluation -------------------------------------------------------------------------------

    def _evaluate(self, command: ev.Evaluate) -> ev.Event | None:
        evaluation = self._setup.evaluation
        self._look_around()
        if not asks_clients(evaluation, final=command.final) or not self._population.ids:
            return self._measure(command, ())
        round_ = self.conductor.machine.round
        if round_ is None or round_.cohort is None:
            return self._measure(command, ())
        plan = self.conductor.plan_of(round_.cohort, round=command.round, attempt=round_.attempt)
        wait = min(EVALUATION_S, plan.deadline_s)
        deadline = self._world.clock.monotonic() + wait
        tickets = {
            client: self._ticket(client, plan, Use.EVALUATE, deadline)
            for client in self._population.ids
        }
        for ticket in tickets.values():
            ticket.final = command.final
        self._poll = poll = Poll(command, tickets, self._world.desk)
        self._timers.add(wait, lambda: self._end_poll(poll))
        return None

    def _reported(self, message: Reported) -> Iterable[ev.Event]:
        message.ticket.done = True
        measured = Measured(message.ticket.client, message.metrics, message.examples)
        return self._measured(message.ticket, measured)

    def _measured(self, ticket: Ticket, found: Measured | None) -> Iterable[ev.Event]:
        """Note one client's evaluation, or that there will be none."""
        poll = self._poll
        if poll is not None and poll.take(ticket, found):
            event = self._end_poll(poll)
            if event is not None:
                yield event

    def _end_poll(self, poll: Poll) -> ev.Event | None:
        if self._poll is not poll:
            return None
        self._poll = None
        return self._measure(poll.command, poll.end())

    def _measure(self, command: ev.Evaluate, found: Iterable[Measured]) -> ev.Event:
        whole = measurement(
            self.conductor.params,
            self._setup.evaluation,
            participant=self._participant,
            clients=found,
        )
        return self.conductor.evaluated(command, *whole)

    # --- operators --------------------------------------------------------------------------------

    def _stop(self, message: Stop) -> Iterable[ev.Event]:
        return (ev.StopRequested(message.reason),)

    def _open(self, _: Open) -> Iterable[ev.Event]:
        self._asked = True
        return self._seen(Seen())

    def _drain(self, _: Drain) -> Iterable[ev.Event]:
        self.drained = True
        return ()


_DO: Final[dict[type[Any], Callable[[Actor, Any], ev.Event | None]]] = {
    ev.ChooseCohort: Actor._choose,
    ev.Invite: Actor._invite,
    ev.SetTimer: Actor._set_timer,
    ev.Evaluate: Actor._evaluate,
}
"""Commands that only a deployment does this way."""

_AFTER: Final[dict[type[Any], Callable[[Actor, Any], None]]] = {
    ev.Accumulate: Actor._accepted,
    ev.Discard: Actor._discarded,
    ev.Abandon: Actor._abandoned,
    ev.Commit: Actor._committed,
}
"""What is left to do after a command that is done the same way everywhere."""

_TAKE: Final[dict[type[Any], Callable[[Actor, Any], Iterable[ev.Event]]]] = {
    Seen: Actor._seen,
    Arrived: Actor._arrived,
    Said: Actor._said,
    GaveUp: Actor._gave_up,
    Reported: Actor._reported,
    Stop: Actor._stop,
    Open: Actor._open,
    Drain: Actor._drain,
}
"""Message to what follows from it."""
