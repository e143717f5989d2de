"""The driver of a simulation: take a command, do it, feed its outcome back as an event.

It has no round logic: who is invited when, what closes a round and what is tried again is decided
by the machines of `choral.federation`. Time is virtual, so a deadline of ten minutes costs nothing,
and answers arrive in the order of their virtual times on every engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from choral.core.aggregation import Secure
from choral.core.errors import StoreError
from choral.core.exact import Encoding, ExactSum
from choral.core.params import ClientId, Params
from choral.core.plan import Plan
from choral.core.ports import Clock, Observer, Rand
from choral.core.selection import Draft
from choral.federation import events as ev
from choral.federation.conductor import SHARED, Attempt, Conductor
from choral.federation.evaluation import asks_clients, measurement
from choral.federation.journal import Journal
from choral.federation.participant import Failed, Outcome, Participant
from choral.federation.setup import RunSetup
from choral.federation.spending import Spending
from choral.federation.sums import PlainSum, Sum
from choral.federation.view import RunView
from choral.simulation.agenda import Agenda, Happening
from choral.simulation.availability import Arrival
from choral.simulation.engine import Engine, Work
from choral.simulation.secure import Fleet, SecureSum


class Driver:
    """Runs one federation from its setup to its last command.

    Args:
        setup: The run.
        engine: Where clients' work is done.
        participant: The client's side, for measuring on the held-out set.
        first: The first global model.
        journal: Where the run leaves its log and states.
        arrival: When clients answer.
        clock: For durations that people read.
        rand: Secret randomness of the parties of secure sums.
        spending: The run's part of a privacy ledger, or None.
        observers: See every event, command and failure; see `Conductor`.

    Attributes:
        conductor: What is not the simulation's own.
    """

    def __init__(
        self,
        setup: RunSetup,
        engine: Engine,
        *,
        participant: Participant,
        first: Params,
        journal: Journal,
        arrival: Arrival,
        clock: Clock,
        rand: Rand,
        spending: Spending | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        self._setup = setup
        self._engine = engine
        self._participant = participant
        self._arrival = arrival
        terms = setup.aggregation
        self._fleet = Fleet(terms, rand=rand, clock=clock) if isinstance(terms, Secure) else None
        self._agenda = Agenda()
        self._outcomes: Iterator[Outcome] = iter(())
        self._waiting: dict[ClientId, Params | None] = {}
        self._ids = setup.source.ids
        self.conductor = Conductor(
            setup,
            participant=participant,
            first=first,
            journal=journal,
            clock=clock,
            new_sum=self._sum,
            spending=spending,
            observers=observers,
        )

    def run(self) -> RunView:
        """Start the run, or go on with the one in the journal; return how it ended."""
        conductor = self.conductor
        commands = deque(conductor.begin())
        while True:
            while commands:
                command = commands.popleft()
                conductor.show(command)
                if isinstance(command, ev.Finish):
                    conductor.finish()
                    return conductor.view
                event = self._do(command)
                if event is not None:
                    commands.extend(conductor.take(event))
            event = self._agenda.next()
            if event is not None:
                commands.extend(conductor.take(event))

    def _do(self, command: ev.Command) -> ev.Event | None:
        """Do a command; return the event that follows at once, if any."""
        own = _DO.get(type(command))
        event = own(self, command) if own is not None else None
        return self.conductor.do(command) if type(command) in SHARED else event

    # --- commands ---------------------------------------------------------------------------------

    def _choose(self, command: ev.ChooseCohort) -> ev.Event:
        setup = self._setup
        draft = Draft(command.round, command.attempt, setup.policy.round.invited(len(self._ids)))
        key = self.conductor.selection_key(command)
        clients = setup.selector(setup.source, draft, self.conductor.machine.history, key)
        return ev.CohortChosen(command.round, command.attempt, tuple(clients))

    def _invite(self, command: ev.Invite) -> ev.Event | None:
        if self.conductor.attempt is None:
            self._waiting = {}
        attempt = self.conductor.opened(command)
        if not isinstance(attempt, Attempt):
            return attempt
        attempt.bytes_down += self.conductor.params.size_bytes * len(command.clients)
        arrivals = sorted(self._arrivals(command), key=lambda pair: pair[0])
        answering = {client for _, client in arrivals}
        silent = [client for client in command.clients if client not in answering]
        opened = attempt.sum.open([client for _, client in arrivals], silent)
        for refusal in opened.refused:
            answering.discard(refusal.client)
            self._at_once(self.conductor.note_failed(attempt.plan, refusal))
        if opened.unreached is not None:
            self._at_once(ev.SumFailed(command.round, command.attempt, opened.unreached.reason))
            return None
        arrivals = [pair for pair in arrivals if pair[1] in answering]
        work = tuple(client for _, client in arrivals)
        self._outcomes = self._engine.train(
            Work(attempt.plan, self.conductor.params, work, self.conductor.personal)
        )
        for after_s, _ in arrivals:
            self._agenda.add(after_s, self._next_outcome(attempt.plan))
        return None

    def _at_once(self, event: ev.Event) -> None:
        """Let an event happen as soon as the commands at hand are done."""
        self._agenda.add(0.0, lambda: event)

    def _sum(self, plan: Plan, clients: tuple[ClientId, ...]) -> Sum:
        """Return the empty sum of an attempt."""
        spec = self._participant.spec
        if isinstance(plan.encoding, Encoding):
            return PlainSum(ExactSum(spec.vector_size, plan.encoding), plan)
        if self._fleet is None:
            raise StoreError(f"round {plan.round} has a secure plan and no parties")
        key = self._setup.key.fold("secure", plan.round, plan.attempt)
        return SecureSum(plan, spec, fleet=self._fleet, clients=clients, key=key)

    def _arrivals(self, command: ev.Invite) -> Iterator[tuple[float, ClientId]]:
        key = self._setup.key.fold("arrival", command.round, command.attempt)
        for client in command.clients:
            after_s = self._arrival(key.fold(client))
            if after_s is not None:
                yield after_s, client

    def _next_outcome(self, plan: Plan) -> Happening:
        """Return what happens when the next client of an attempt answers."""

        def happen() -> ev.Event | None:
            attempt = self.conductor.attempt
            if attempt is None or attempt.plan is not plan:
                return None
            outcome = next(self._outcomes)
            if isinstance(outcome, Failed):
                attempt.sum.lose(outcome.client)
                return self.conductor.note_failed(plan, outcome)
            refusal = attempt.sum.take(outcome.client, outcome.contribution)
            if refusal is not None:
                return self.conductor.note_failed(plan, refusal)
            self._waiting[outcome.client] = outcome.kept
            return ev.UpdateReceived(plan.round, plan.attempt, outcome.client)

        return happen

    def _set_timer(self, command: ev.SetTimer) -> None:
        def happen() -> ev.Event | None:
            current = self.conductor.machine.round
            if current is None or (current.round, current.attempt) != (
                command.round,
                command.attempt,
            ):
                return None
            return ev.TimerFired(command.round, command.attempt, command.timer)

        self._agenda.add(command.after_s, happen)

    def _accumulate(self, command: ev.Accumulate) -> None:
        self.conductor.keep(command.client, self._waiting.pop(command.client))

    def _discard(self, command: ev.Discard) -> None:
        self._waiting.pop(command.client, None)

    def _end_work(self, _: ev.CloseSum | ev.Abandon) -> None:
        close = getattr(self._outcomes, "close", None)
        if close is not None:
            close()
        self._outcomes = iter(())

    def _evaluate(self, command: ev.Evaluate) -> ev.Event:
        conductor, evaluation = self.conductor, self._setup.evaluation
        asked = asks_clients(evaluation, final=command.final)
        measured = measurement(
            conductor.params,
            evaluation,
            participant=self._participant,
            clients=self._engine.evaluate(conductor.params, tuple(self._ids), conductor.personal)
            if asked
            else (),
        )
        return conductor.evaluated(command, *measured)


_DO: dict[type[Any], Callable[[Driver, Any], ev.Event | None]] = {
    ev.ChooseCohort: Driver._choose,
    ev.Invite: Driver._invite,
    ev.SetTimer: Driver._set_timer,
    ev.Accumulate: Driver._accumulate,
    ev.Discard: Driver._discard,
    ev.CloseSum: Driver._end_work,
    ev.Abandon: Driver._end_work,
    ev.Evaluate: Driver._evaluate,
}
"""What the simulation does of a command itself, before or instead of its conductor."""
