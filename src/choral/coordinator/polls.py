"""Evaluations of a run's model: clients are asked together, and waited for until a time is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from choral.coordinator.assignments import Assignments, Model
from choral.coordinator.opening import Opening
from choral.coordinator.outbox import Outbox
from choral.coordinator.tickets import Reported, Ticket, Use
from choral.coordinator.timers import Timers
from choral.coordinator.world import World
from choral.core.failpoints import reach
from choral.core.params import ClientId
from choral.federation import events as ev
from choral.federation.conductor import Conductor
from choral.federation.evaluation import Measured, asks_clients, measurement
from choral.federation.participant import Participant
from choral.federation.setup import Evaluation

EVALUATION_S: Final = 60.0
"""Longest wait for clients' own evaluations."""


class Poll:
    """One evaluation of one model by clients.

    Args:
        command: What asked for it.
        tickets: The clients' work.
        let_go: Ends work that nobody waits for any more.
    """

    def __init__(
        self,
        command: ev.Evaluate,
        tickets: Mapping[ClientId, Ticket],
        let_go: Callable[[tuple[Ticket, ...]], None],
    ) -> None:
        self.command = command
        self._waiting = dict(tickets)
        self._found: list[Measured] = []
        self._let_go = let_go

    def take(self, ticket: Ticket, found: Measured | None) -> bool:
        """Note what a client measured, or that it will not; return whether that was the last."""
        if self._waiting.get(ticket.client) is not ticket:
            return False
        del self._waiting[ticket.client]
        if found is not None:
            self._found.append(found)
        self._let_go((ticket,))
        return not self._waiting

    def end(self) -> list[Measured]:
        """Wait for nobody any more; return what there is, in the order of ids."""
        self._let_go(tuple(self._waiting.values()))
        self._waiting.clear()
        return sorted(self._found, key=lambda m: m.client)


class Evaluations:
    """Measures a run's model, with its clients where the run asks them.

    Args:
        terms: How the run measures.
        conductor: Has the model and the round.
        participant: Measures on the held-out set.
        opening: Knows who can be asked.
        work: Makes tickets.
        world: What is outside.
        timers: End a wait.
        outbox: Where calls that others can see wait.
    """

    def __init__(
        self,
        terms: Evaluation,
        conductor: Conductor,
        participant: Participant,
        *,
        opening: Opening,
        work: Assignments,
        world: World,
        timers: Timers,
        outbox: Outbox,
    ) -> None:
        self._terms = terms
        self._conductor = conductor
        self._participant = participant
        self._opening = opening
        self._work = work
        self._world = world
        self._timers = timers
        self._later = outbox.add
        self._poll: Poll | None = None

    def begin(self, command: ev.Evaluate, model_bytes: int) -> ev.Event | None:
        """Ask clients to measure a model of so many bytes, or return its metrics at once."""
        conductor = self._conductor
        round_ = conductor.machine.round
        asked = self._opening.to_measure(() if round_ is None else round_.accepted)
        wanted = asks_clients(self._terms, final=command.final)
        if not (wanted and asked) or round_ is None or round_.cohort is None:
            return self._measure(command, ())
        plan = conductor.plan_of(round_.cohort, round=command.round, attempt=round_.attempt)
        wait = min(EVALUATION_S, plan.deadline_s)
        deadline = self._world.clock.monotonic() + wait
        model = Model(conductor.params.sha256, model_bytes)
        tickets = {
            client: self._work.ticket(client, plan, Use.EVALUATE, model=model, deadline=deadline)
            for client in asked
        }
        for ticket in tickets.values():
            ticket.final = command.final
        self._poll = poll = Poll(command, tickets, self._let_go)
        self._later(self._world.desk.assign, tuple(tickets.values()))
        self._later(reach, "coordinator.evaluation.told")
        self._timers.add(wait, lambda: self._end(poll))
        return None

    def reported(self, message: Reported) -> Iterable[ev.Event]:
        """Take one client's evaluation."""
        message.ticket.done = True
        reach("coordinator.evaluation.reported")
        found = Measured(message.ticket.client, message.metrics, message.examples)
        return self.took(message.ticket, found)

    def took(self, ticket: Ticket, found: Measured | None) -> Iterable[ev.Event]:
        """Note what a client measured, or that it will not."""
        poll = self._poll
        if poll is not None and poll.take(ticket, found):
            event = self._end(poll)
            if event is not None:
                yield event

    def _end(self, poll: Poll) -> ev.Event | None:
        if self._poll is not poll:
            return None
        self._poll = None
        return self._measure(poll.command, poll.end())

    def _let_go(self, tickets: tuple[Ticket, ...]) -> None:
        self._later(self._world.desk.end, tickets)
        self._later(self._world.desk.forget, tickets)

    def _measure(self, command: ev.Evaluate, found: Iterable[Measured]) -> ev.Event:
        whole = measurement(
            self._conductor.params, self._terms, participant=self._participant, clients=found
        )
        reach("coordinator.evaluated")
        return self._conductor.evaluated(command, *whole)
