"""What every driver of a run does the same way, whoever its clients are and wherever they work.

A driver takes a command, does it, and feeds its outcome back as an event. Who is chosen, how
clients are reached, when a timer fires and who measures the model is its own; planning, summing,
releasing, committing and going on after a crash are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from choral.core.errors import BudgetExhausted, PlanError, StoreError
from choral.core.exact import ExactSum, Total
from choral.core.keys import Key
from choral.core.params import ClientId, Params, Spec
from choral.core.plan import Cohort, Plan
from choral.core.ports import Clock, Observer, Record
from choral.core.release import Ledger, OpenLedger, Private, Released, public, recalled
from choral.federation import events as ev
from choral.federation.journal import Journal
from choral.federation.log import replay
from choral.federation.model import GlobalModel
from choral.federation.participant import Failed, Participant
from choral.federation.protection import first_clip, stepped
from choral.federation.recorded import RecordAccount, counted_in
from choral.federation.round import OPEN, RESTARTED
from choral.federation.run import RunMachine, RunPhase
from choral.federation.setup import RunSetup
from choral.federation.spending import Spending, Witness, check_released
from choral.federation.sums import Closed, Sum, Unreached
from choral.federation.view import RunView


@dataclass(slots=True)
class Attempt:
    """What a driver holds of the attempt that is going on.

    Attributes:
        plan: The round's terms.
        clients: The cohort.
        sum: Its sum.
        started: When, on the driver's clock.
        kept: Personal tensors of accepted clients, where the driver sees them.
        bytes_down: Bytes of models sent out.
        closing: Whether its sum has been asked to close, or may have been by a process before.
        total: The decoded sum, not yet released; with its noise, where there is any.
        released: The sum, released.
        model: The model that it leads to, not yet committed.
    """

    plan: Plan
    clients: tuple[ClientId, ...]
    sum: Sum
    started: float
    kept: dict[ClientId, Params] = field(default_factory=dict)
    bytes_down: int = 0
    closing: bool = False
    total: Private[Total] | None = None
    released: Released[Total] | None = None
    model: Released[GlobalModel] | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """An attempt that a driver can go on with.

    Attributes:
        plan: The round's terms, as they were.
        sum: Its sum, as far as it had come.
        held: Clients whose contributions are in it.
    """

    plan: Plan
    sum: Sum
    held: tuple[ClientId, ...]


Restore = Callable[[Cohort, Sequence[ClientId]], Restored | None]
"""From the cohort of an attempt and whom it had accepted to what is left of it; None for nothing.
"""


class Conductor:
    """A run's machine, model, log and sum.

    Args:
        setup: The run.
        participant: The clients' side, for its schema and transforms.
        first: The first global model.
        journal: Where the run leaves its log and states.
        clock: For durations that people read.
        new_sum: Makes the empty sum of an attempt from its plan and cohort.
        spending: The run's part of a privacy ledger; None for a run without privacy.
        restore: Goes on with an attempt that was open when the run's process ended.
        observers: See every event and command from now on, and every `Failed` with its traceback,
            which never goes into the log. A resumed run shows them nothing of its past.
        insist: Makes a call that stores something; may wait where the storage says no.

    Attributes:
        view: The run's story so far.
        failed: Failures of clients since the newest commit, with their tracebacks.
        machine: The run's machine, for its history and phase.
        attempt: The one that is going on, if any.
        personal: Clients' newest personal tensors, where the driver sees them.
        refused: Why the privacy budget allows no further round; None where it does.

    Raises:
        PlanError: The model has no shared tensor.
    """

    def __init__(
        self,
        setup: RunSetup,
        *,
        participant: Participant,
        first: Params,
        journal: Journal,
        clock: Clock,
        new_sum: Callable[[Plan, tuple[ClientId, ...]], Sum],
        spending: Spending | None = None,
        restore: Restore = lambda cohort, accepted: None,
        observers: Iterable[Observer] = (),
        insist: Callable[[Callable[[], Any]], Any] = lambda call: call(),
    ) -> None:
        if not participant.spec.shared_size:
            raise PlanError("the model has no shared tensor, so there is nothing to learn together")
        self.view = RunView()
        self.failed: list[Failed] = []
        self.machine = RunMachine(setup.policy)
        self.attempt: Attempt | None = None
        self.personal: dict[ClientId, Params] = {}
        self.refused: BudgetExhausted | None = None
        if setup.protection is not None and spending is None:
            raise PlanError("a run with privacy and without a ledger")
        self._spending = spending
        self._records: RecordAccount | None = None
        if setup.records is not None:
            counted = counted_in(setup.source, setup.test_fraction)
            self._records = RecordAccount(setup.records, setup.local, counted)
        clip = first_clip(setup.protection)
        self._adaptive = None if clip is None else (0, clip)
        self._setup = setup
        self._participant = participant
        self._first: Params | None = first
        self._first_sha256 = first.sha256
        self._journal = journal
        self._clock = clock
        self._new_sum = new_sum
        self._restore = restore
        self._insist = insist
        self._own = (self.view,) if self._records is None else (self.view, self._records)
        self._observers: tuple[Observer, ...] = (*self._own, *observers)
        self._model: Released[GlobalModel] = public(
            GlobalModel.start(setup.strategy, self.spec, first), what="first model"
        )
        self.params = self._model.value.params()

    @property
    def spec(self) -> Spec:
        """Schema of the model."""
        return self._participant.spec

    @property
    def released(self) -> Released[Params]:
        """The newest committed global model, for stores and for clients."""
        return self._model.map(lambda _: self.params)

    @property
    def first_sha256(self) -> str:
        """Digest of the model before round 1."""
        return self._first_sha256

    def begin(self) -> ev.Commands:
        """Start the run, or go on with the one in the journal; return what is to be done now.

        Raises:
            StoreError: The stored state is not what the log names.
        """
        records = self._journal.read()
        try:
            return self._go_on(records) if records else self._start()
        finally:
            self._first = None  # it is a whole model, and not needed any more

    def _start(self) -> ev.Commands:
        state = self._insist(lambda: self._journal.put_state(self._model))
        started = self.take(ev.RunStarted(state, self.params.sha256))
        self._insist(self._journal.flush)
        return started

    def _go_on(self, records: Sequence[Record]) -> ev.Commands:
        self.machine, _ = replay(records, self._setup.policy, observers=self._own)
        stored = self._journal.get_state(self.view.state)
        if self._first is None:
            raise StoreError("the run has begun already")
        model = GlobalModel.decode(stored, self._setup.strategy, self.spec, self._first)
        released = self.view.released
        self._model = recalled(model, released) if released else public(model, what="first model")
        self.params = self._model.value.params()
        if self.params.sha256 != self.view.model_sha256:
            raise StoreError("the stored state does not give the model that the log names")
        self.personal = self._journal.get_kept(self.view.kept)
        self._check_ledger()
        held = self._go_on_with_attempt()
        return self.take(ev.Restarted(held, intact=self.attempt is not None))

    def _check_ledger(self) -> None:
        """Refuse to go on where the ledger does not know what the log tells of.

        Raises:
            RolledBackLedger: It is older.
            TamperedLedger: It has been changed.
        """
        if self._spending is None:
            return
        if self.view.ledger is not None:
            self._spending.check_witness(Witness(**self.view.ledger))
        rounds = ((r["round"], r["attempt"]) for r in self.view.rounds)
        check_released(self._spending, rounds)

    def _go_on_with_attempt(self) -> tuple[ClientId, ...]:
        """Take the open attempt up again, if it can be; return whose contributions are there."""
        round_ = self.machine.round
        if self.machine.phase is not RunPhase.ROUND or round_ is None or round_.cohort is None:
            return ()
        found = self._restore(round_.cohort, tuple(round_.accepted))
        if found is None:
            return ()
        started = self._clock.monotonic()
        # Whether a sum was opened whose survivors were fixed, the process before knows alone.
        self.attempt = Attempt(
            found.plan,
            round_.cohort.clients,
            found.sum,
            started,
            closing=round_.phase not in OPEN,
        )
        return found.held

    def take(self, event: ev.Event) -> ev.Commands:
        """Feed an event to the journal, everyone who watches and the machine."""
        if self._records is not None:
            event = self._records.sized(event)
        self._journal.note(event)
        self.show(event)
        commands = self.machine.receive(event)
        if isinstance(event, ev.Committed):
            self._insist(self._journal.flush)
            self.failed.clear()
        return commands

    def show(self, item: Any) -> None:
        """Show an event, a command or a failure to everyone who watches."""
        for observe in self._observers:
            observe(item)

    def note_failed(self, plan: Plan, failed: Failed) -> ev.ClientFailed:
        """Show a client's failure to those who watch, and return it as an event."""
        self.failed.append(failed)
        self.show(failed)
        return ev.ClientFailed(plan.round, plan.attempt, failed.client, failed.code, failed.message)

    # --- commands ---------------------------------------------------------------------------------

    def do(self, command: ev.Command) -> ev.Event | None:
        """Do a command that is the same everywhere; return the event that follows at once, if any.

        Raises:
            StoreError: The command does not belong to what is going on.
        """
        return _DO[type(command)](self, command)

    def selection_key(self, command: ev.ChooseCohort) -> Key:
        """Return the key of the draw of a cohort.

        Where privacy takes credit for the draw, nobody can know it from the run's seed.
        """
        terms, spending = self._setup.protection, self._spending
        if spending is not None and terms is not None and terms.sampling != {"kind": "none"}:
            return spending.draw_key()
        return self._setup.key.fold("selection", command.round, command.attempt)

    def opened(self, command: ev.Invite) -> Attempt | ev.OverBudget | ev.SumFailed:
        """Return the attempt that clients are invited to, planned where it is new.

        Its plan is that of the whole cohort, whoever is asked first. What it will release is
        reserved before anybody is; where that cannot be, the event is returned that says so.
        """
        if self.attempt is None:
            unpaid = self._reserve(command)
            if unpaid is not None:
                return unpaid
            round_ = self.machine.round
            if round_ is None or round_.cohort is None:
                raise StoreError(f"round {command.round} has no cohort to plan for")
            plan = self.plan_of(round_.cohort, round=command.round, attempt=command.attempt)
            clients = round_.cohort.clients
            self.attempt = Attempt(
                plan, clients, self._new_sum(plan, clients), self._clock.monotonic()
            )
        return self.attempt

    def _reserve(self, command: ev.Invite) -> ev.OverBudget | ev.SumFailed | None:
        """Reserve what an attempt will release; return why it will not be, if so."""
        unpaid = None if self._records is None else self._records.exhausted(command.round)
        if unpaid is not None:
            self.refused = unpaid
            return ev.OverBudget(command.round, command.attempt, unpaid.message)
        if self._spending is None:
            return None
        try:
            if self._spending.reserve(command.round, command.attempt):
                return None
        except BudgetExhausted as error:
            self.refused = error
            return ev.OverBudget(command.round, command.attempt, error.message)
        return ev.SumFailed(command.round, command.attempt, RESTARTED)

    def plan_of(self, cohort: Cohort, *, round: int, attempt: int) -> Plan:
        """Return the plan of an attempt that starts from the newest model."""
        return self._setup.plan(
            self._setup.strategy.plan(self._model.value.state, round),
            cohort,
            round=round,
            attempt=attempt,
            spec=self.spec,
            model_sha256=self.params.sha256,
            max_norm=self._clip(),
        )

    def _clip(self) -> float | None:
        """Return the adaptive clip of the next round; None where the run has none."""
        if self._adaptive is None:
            return None
        done, clip = self._adaptive
        rounds = self.view.rounds
        clip = stepped(clip, rounds[done:])
        self._adaptive = len(rounds), clip
        return clip.bound

    def keep(self, client: ClientId, kept: Params | None) -> None:
        """Note the personal tensors of a client that was accepted."""
        if kept is not None:
            self._going_on().kept[client] = kept

    def _accumulate(self, command: ev.Accumulate) -> None:
        self._going_on().sum.accept(command.client)

    def _discard(self, command: ev.Discard) -> None:
        if self.attempt is not None:
            self.attempt.sum.discard(command.client)

    def _close_sum(self, command: ev.CloseSum) -> ev.Event | None:
        attempt = self._going_on()
        attempt.closing = True
        closed = attempt.sum.close(command.survivors)
        return None if closed is None else self.closed(closed)

    def closed(self, closed: Closed | Unreached) -> ev.Aggregated | ev.SumFailed:
        """Return what a sum that is complete, or never will be, means for the round."""
        attempt = self._going_on()
        plan = attempt.plan
        if isinstance(closed, Unreached):
            return ev.SumFailed(plan.round, plan.attempt, closed.reason)
        attempt.closing = True
        if not self._may_noise(attempt):
            return ev.SumFailed(plan.round, plan.attempt, RESTARTED)
        total = self._decoded(closed.total, plan)
        attempt.total = Private(total)
        for client in closed.left_out:
            attempt.kept.pop(client, None)
        round_ = self.machine.round
        return ev.Aggregated(
            plan.round,
            plan.attempt,
            count=total.count,
            dropped=len(closed.left_out) + (0 if round_ is None else round_.dropped),
            weight=total.weight,
            bytes_up=attempt.sum.bytes_up,
            bytes_down=attempt.bytes_down + attempt.sum.bytes_down,
            update_norm_max=None if plan.privacy is not None else attempt.sum.norm_max,
            left_out=closed.left_out,
        )

    def _may_noise(self, attempt: Attempt) -> bool:
        """Return whether a sum may get the coordinator's noise, where it is to have any.

        One that had its noise before may not: other noise would be a second release. Nobody draws
        noise who does not drive the run any more.
        """
        terms = attempt.plan.privacy
        if self._spending is None or terms is None or not terms.central:
            return True
        self._insist(self._journal.flush)
        return self._spending.claim(attempt.plan.round, attempt.plan.attempt)

    def _decoded(self, total: Total | ExactSum, plan: Plan) -> Total:
        """Return what a sum says, with the coordinator's noise where it has any."""
        if self._spending is not None:
            return self._spending.noised(total, plan)
        whole = total.total(last=True) if isinstance(total, ExactSum) else total
        return self._participant.chain.decode(whole, self.spec, plan)

    def _release(self, command: ev.Release) -> ev.Event:
        attempt = self._going_on()
        if attempt.total is None:
            raise StoreError(f"round {command.round} has no sum to release")
        spending = self._spending
        ledger = self._ledger()
        attempt.released = ledger.release(
            attempt.total, what="model", round=command.round, attempt=command.attempt
        )
        record = attempt.released.event
        released = ev.ModelReleased(
            command.round, command.attempt, record.mechanism, record.epsilon, record.delta
        )
        if spending is None:
            return released
        seen = spending.witness
        return replace(released, population=seen.population, entries=seen.entries, head=seen.head)

    def _ledger(self) -> Ledger:
        """Return what makes an aggregate a released one."""
        if self._spending is not None:
            return self._spending.ledger()
        if self._records is not None:
            return self._records.ledger()
        return OpenLedger(lambda _: None)

    def _commit(self, command: ev.Commit) -> ev.Event:
        attempt = self._going_on()
        if attempt.released is None:
            raise StoreError(f"round {command.round} has not been released")
        if attempt.model is None:  # the sum's memory may become the model's
            attempt.model = self._model.value.step(
                self._setup.strategy, attempt.released, round=command.round
            )
        model = attempt.model
        state, kept = self._journal.put_state(model), self._journal.put_kept(attempt.kept)
        # Storing may fail and be tried again; from here on nothing does.
        self._model, self.attempt = model, None
        self.params = model.value.params()
        self.personal |= attempt.kept
        return ev.Committed(
            command.round,
            command.attempt,
            state=state,
            model_sha256=self.params.sha256,
            metrics=attempt.released.value.metrics,
            duration_s=self._clock.monotonic() - attempt.started,
            kept=kept,
        )

    def _abandon(self, command: ev.Abandon) -> None:
        attempt = self.attempt
        if attempt is not None and self._spending is not None:
            terms = attempt.plan.privacy
            if (terms is not None and terms.central) or not attempt.closing:
                self._insist(self._journal.flush)  # another one may go on with it until this holds
                why = f"abandoned before anything was released: {command.reason}"
                self._spending.void(command.round, command.attempt, reason=why)
        self.attempt = None  # what nobody knows the end of stays reserved, and counts

    def evaluated(
        self,
        command: ev.Evaluate,
        metrics: dict[str, float | None],
        client_metrics: dict[str, dict[str, float | None]],
    ) -> ev.Evaluated:
        """Release what was measured; return the event."""
        released = OpenLedger(lambda _: None).release(
            Private((metrics, client_metrics)), what="evaluation", round=command.round, attempt=1
        )
        whole, each = released.value
        return ev.Evaluated(command.round, whole, each, released.event.mechanism)

    def finish(self) -> None:
        """Make everything durable."""
        self._journal.flush()

    def _going_on(self) -> Attempt:
        if self.attempt is None:
            raise StoreError("no attempt is going on")
        return self.attempt


_DO: Final[dict[type[Any], Callable[[Conductor, Any], ev.Event | None]]] = {
    ev.Accumulate: Conductor._accumulate,
    ev.Discard: Conductor._discard,
    ev.CloseSum: Conductor._close_sum,
    ev.Release: Conductor._release,
    ev.Commit: Conductor._commit,
    ev.Abandon: Conductor._abandon,
}
"""Command to what does it everywhere."""

SHARED: Final = frozenset(_DO)
"""Commands that `do` knows; the others are the driver's own."""
