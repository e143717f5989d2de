"""The driver of a simulation: take a command, do it, feed its outcome back as an event.

It has no round logic: who is invited when, what closes a round and what is tried again is decided
by the machines of `choral.federation`. Time is virtual, so a deadline of ten minutes costs nothing,
and answers arrive in the order of their virtual times on every engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from choral.core.aggregation import Secure
from choral.core.errors import PlanError, StoreError
from choral.core.exact import Encoding, ExactSum, Total
from choral.core.params import ClientId, Params, Spec
from choral.core.plan import Plan
from choral.core.ports import Clock, Observer, Rand
from choral.core.release import OpenLedger, Private, Released, public, recalled
from choral.core.selection import Draft
from choral.federation import events as ev
from choral.federation.log import replay
from choral.federation.model import GlobalModel
from choral.federation.participant import Failed, Outcome, Participant
from choral.federation.run import RunMachine
from choral.federation.setup import RunSetup
from choral.federation.view import RunView
from choral.simulation.agenda import Agenda, Happening
from choral.simulation.availability import Arrival
from choral.simulation.engine import Engine, Work
from choral.simulation.evaluation import measure
from choral.simulation.journal import Journal
from choral.simulation.secure import Fleet, SecureSum
from choral.simulation.sums import PlainSum, Sum, Unreached


@dataclass(slots=True)
class _Attempt:
    """What the driver holds of the attempt that is going on."""

    plan: Plan
    sum: Sum
    started: float
    waiting: dict[ClientId, Params | None] = field(default_factory=dict)
    kept: dict[ClientId, Params] = field(default_factory=dict)
    bytes_down: int = 0
    total: Private[Total] | None = None
    released: Released[Total] | None = None


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
        observers: See every event and command from now on, and every `Failed` with its traceback,
            which never goes into the log. A resumed run shows them nothing of its past.
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
        observers: Iterable[Observer] = (),
    ) -> None:
        self.view = RunView()
        self.failed: list[Failed] = []
        self._setup = setup
        self._engine = engine
        self._journal = journal
        self._arrival = arrival
        self._clock = clock
        terms = setup.aggregation
        self._fleet = Fleet(terms, rand=rand, clock=clock) if isinstance(terms, Secure) else None
        self._observers: tuple[Observer, ...] = (self.view, *observers)
        self._machine = RunMachine(setup.policy)
        self._agenda = Agenda()
        self._outcomes: Iterator[Outcome] = iter(())
        self._attempt: _Attempt | None = None
        self._personal: dict[ClientId, Params] = {}
        self._ids = setup.source.ids
        self._participant = participant
        self._spec, self._first = participant.spec, first
        self._check()
        self._model: Released[GlobalModel] = public(
            GlobalModel.start(setup.strategy, self._spec, self._first), what="first model"
        )
        self._params = self._model.value.params()

    @property
    def spec(self) -> Spec:
        """Schema of the model."""
        return self._spec

    @property
    def params(self) -> Params:
        """The newest committed global model."""
        return self._params

    @property
    def released(self) -> Released[Params]:
        """The newest committed global model, for stores."""
        return self._model.map(GlobalModel.params)

    @property
    def first_sha256(self) -> str:
        """Digest of the model before round 1."""
        return self._first.sha256

    @property
    def machine(self) -> RunMachine:
        """The run's machine, for its history and phase."""
        return self._machine

    def _check(self) -> None:
        """Refuse what cannot work before anyone is invited."""
        if not self._spec.shared_size:
            raise PlanError("the model has no shared tensor, so there is nothing to learn together")

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> RunView:
        """Start the run, or go on with the one in the journal; return how it ended."""
        commands = deque(self._begin())
        while True:
            while commands:
                command = commands.popleft()
                for observe in self._observers:
                    observe(command)
                if isinstance(command, ev.Finish):
                    self._journal.flush()
                    return self.view
                event = _DO[type(command)](self, command)
                if event is not None:
                    commands.extend(self._take(event))
            event = self._agenda.next()
            if event is not None:
                commands.extend(self._take(event))

    def _take(self, event: ev.Event) -> ev.Commands:
        """Feed an event to the machine, the journal and everyone who watches."""
        self._journal.note(event)
        for observe in self._observers:
            observe(event)
        commands = self._machine.receive(event)
        if isinstance(event, ev.Committed):
            self._journal.flush()
        return commands

    def _begin(self) -> ev.Commands:
        records = self._journal.read()
        if not records:
            state = self._journal.put_state(self._model)
            started = self._take(ev.RunStarted(state, self._params.sha256))
            self._journal.flush()
            return started
        self._machine, _ = replay(records, self._setup.policy, observers=[self.view])
        stored = self._journal.get_state(self.view.state)
        model = GlobalModel.decode(stored, self._setup.strategy, self._spec, self._first)
        released = self.view.released
        self._model = recalled(model, released) if released else public(model, what="first model")
        self._params = self._model.value.params()
        if self._params.sha256 != self.view.model_sha256:
            raise StoreError("the stored state does not give the model that the log names")
        self._personal = self._journal.get_kept(self.view.kept)
        return self._take(ev.Restarted())

    # --- commands ---------------------------------------------------------------------------------

    def _choose(self, command: ev.ChooseCohort) -> ev.Event:
        setup = self._setup
        draft = Draft(command.round, command.attempt, setup.policy.round.invited(len(self._ids)))
        key = setup.key.fold("selection", command.round, command.attempt)
        clients = setup.selector(setup.source, draft, self._machine.history, key)
        return ev.CohortChosen(command.round, command.attempt, tuple(clients))

    def _invite(self, command: ev.Invite) -> None:
        attempt = self._attempt = self._attempt or self._planned(command)
        attempt.bytes_down += self._params.size_bytes * len(command.clients)
        arrivals = sorted(self._arrivals(command), key=lambda pair: pair[0])
        answering = {client for _, client in arrivals}
        silent = [client for client in command.clients if client not in answering]
        opened = attempt.sum.open([client for _, client in arrivals], silent)
        for refusal in opened.refused:
            answering.discard(refusal.client)
            self._at_once(self._note_failed(attempt.plan, refusal))
        if opened.unreached is not None:
            self._at_once(ev.SumFailed(command.round, command.attempt, opened.unreached.reason))
            return
        arrivals = [pair for pair in arrivals if pair[1] in answering]
        work = tuple(client for _, client in arrivals)
        self._outcomes = self._engine.train(
            Work(attempt.plan, self._params, work, self._setup.key, self._personal)
        )
        for after_s, _ in arrivals:
            self._agenda.add(after_s, self._next_outcome(attempt.plan))

    def _at_once(self, event: ev.Event) -> None:
        """Let an event happen as soon as the commands at hand are done."""
        self._agenda.add(0.0, lambda: event)

    def _planned(self, command: ev.Invite) -> _Attempt:
        """Return a new attempt. Its plan is that of the whole cohort, whoever is asked first."""
        round_ = self._machine.round
        if round_ is None or round_.cohort is None:
            raise StoreError(f"round {command.round} has no cohort to plan for")
        plan = self._setup.plan(
            self._setup.strategy.plan(self._model.value.state, command.round),
            round_.cohort,
            round=command.round,
            attempt=command.attempt,
            spec=self._spec,
            model_sha256=self._params.sha256,
        )
        return _Attempt(plan, self._sum(plan, round_.cohort.clients), self._clock.monotonic())

    def _sum(self, plan: Plan, clients: tuple[ClientId, ...]) -> Sum:
        """Return the empty sum of an attempt."""
        if isinstance(plan.encoding, Encoding):
            return PlainSum(ExactSum(self._spec.vector_size, plan.encoding))
        if self._fleet is None:
            raise StoreError(f"round {plan.round} has a secure plan and no parties")
        key = self._setup.key.fold("secure", plan.round, plan.attempt)
        return SecureSum(plan, self._spec, fleet=self._fleet, clients=clients, key=key)

    def _arrivals(self, command: ev.Invite) -> Iterator[tuple[float, ClientId]]:
        key = self._setup.key.fold("arrival", command.round, command.attempt)
        for client in command.clients:
            after_s = self._arrival(key.fold(client))
            if after_s is not None:
                yield after_s, client

    def _next_outcome(self, plan: Plan) -> Happening:
        """Return what happens when the next client of an attempt answers."""

        def happen() -> ev.Event | None:
            attempt = self._attempt
            if attempt is None or attempt.plan is not plan:
                return None
            outcome = next(self._outcomes)
            if isinstance(outcome, Failed):
                attempt.sum.lose(outcome.client)
                return self._note_failed(plan, outcome)
            refusal = attempt.sum.take(outcome.client, outcome.contribution)
            if refusal is not None:
                return self._note_failed(plan, refusal)
            attempt.waiting[outcome.client] = outcome.kept
            return ev.UpdateReceived(plan.round, plan.attempt, outcome.client)

        return happen

    def _note_failed(self, plan: Plan, failed: Failed) -> ev.ClientFailed:
        """Show a failure to those who watch, and return it as an event."""
        self.failed.append(failed)
        for observe in self._observers:
            observe(failed)
        return ev.ClientFailed(plan.round, plan.attempt, failed.client, failed.code, failed.message)

    def _set_timer(self, command: ev.SetTimer) -> None:
        def happen() -> ev.Event | None:
            current = self._machine.round
            if current is None or (current.round, current.attempt) != (
                command.round,
                command.attempt,
            ):
                return None
            return ev.TimerFired(command.round, command.attempt, command.timer)

        self._agenda.add(command.after_s, happen)

    def _accumulate(self, command: ev.Accumulate) -> None:
        attempt = self._going_on()
        attempt.sum.accept(command.client)
        kept = attempt.waiting.pop(command.client)
        if kept is not None:
            attempt.kept[command.client] = kept

    def _discard(self, command: ev.Discard) -> None:
        if self._attempt is not None:
            self._attempt.waiting.pop(command.client, None)
            self._attempt.sum.discard(command.client)

    def _close_sum(self, command: ev.CloseSum) -> ev.Event:
        attempt = self._going_on()
        self._end_work()
        closed = attempt.sum.close(command.survivors)
        if isinstance(closed, Unreached):
            return ev.SumFailed(command.round, command.attempt, closed.reason)
        total = self._participant.chain.decode(closed.total, self._spec, attempt.plan)
        attempt.total = Private(total)
        for client in closed.left_out:
            attempt.kept.pop(client, None)
        return ev.Aggregated(
            command.round,
            command.attempt,
            count=total.count,
            dropped=len(closed.left_out)
            + (0 if self._machine.round is None else self._machine.round.dropped),
            weight=total.weight,
            bytes_up=attempt.sum.bytes_up,
            bytes_down=attempt.bytes_down + attempt.sum.bytes_down,
            update_norm_max=attempt.sum.norm_max,
            left_out=closed.left_out,
        )

    def _release(self, command: ev.Release) -> ev.Event:
        attempt = self._going_on()
        if attempt.total is None:
            raise StoreError(f"round {command.round} has no sum to release")
        attempt.released = OpenLedger(lambda _: None).release(
            attempt.total, what="model", round=command.round, attempt=command.attempt
        )
        record = attempt.released.event
        return ev.ModelReleased(
            command.round, command.attempt, record.mechanism, record.epsilon, record.delta
        )

    def _commit(self, command: ev.Commit) -> ev.Event:
        attempt = self._going_on()
        if attempt.released is None:
            raise StoreError(f"round {command.round} has not been released")
        before = self._model.value
        self._model = before.step(self._setup.strategy, attempt.released, round=command.round)
        self._params = self._model.value.params()
        self._personal |= attempt.kept
        self._attempt = None
        return ev.Committed(
            command.round,
            command.attempt,
            state=self._journal.put_state(self._model),
            model_sha256=self._params.sha256,
            metrics=attempt.released.value.metrics,
            duration_s=self._clock.monotonic() - attempt.started,
            kept=self._journal.put_kept(attempt.kept),
        )

    def _abandon(self, _: ev.Abandon) -> None:
        self._end_work()
        self._attempt = None

    def _evaluate(self, command: ev.Evaluate) -> ev.Event:
        setup = self._setup
        measured = Private(
            measure(
                self._params,
                setup.evaluation,
                participant=self._participant,
                engine=self._engine,
                clients=self._ids,
                personal=self._personal,
                final=command.final,
            )
        )
        released = OpenLedger(lambda _: None).release(
            measured, what="evaluation", round=command.round, attempt=1
        )
        metrics, client_metrics = released.value
        return ev.Evaluated(command.round, metrics, client_metrics, released.event.mechanism)

    def _end_work(self) -> None:
        close = getattr(self._outcomes, "close", None)
        if close is not None:
            close()
        self._outcomes = iter(())

    def _going_on(self) -> _Attempt:
        if self._attempt is None:
            raise StoreError("no attempt is going on")
        return self._attempt


_DO: dict[type[Any], Callable[[Driver, Any], ev.Event | None]] = {
    ev.ChooseCohort: Driver._choose,
    ev.Invite: Driver._invite,
    ev.SetTimer: Driver._set_timer,
    ev.Accumulate: Driver._accumulate,
    ev.Discard: Driver._discard,
    ev.CloseSum: Driver._close_sum,
    ev.Release: Driver._release,
    ev.Commit: Driver._commit,
    ev.Abandon: Driver._abandon,
    ev.Evaluate: Driver._evaluate,
}
"""Command to what does it; its event, if any, goes back to the machine at once."""
