"""What must hold at every step of every simulated run."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from choral.coordinator.actor import Actor
from choral.coordinator.sums import RemoteSum
from choral.coordinator.tickets import Ticket
from choral.core.ports import Record
from choral.federation.events import (
    CohortChosen,
    Committed,
    Evaluated,
    Event,
    from_record,
)
from choral.federation.journal import STEP
from choral.federation.log import replay
from choral.federation.round import ENDS
from choral.federation.round import Phase as RoundPhase
from choral.federation.run import RunMachine, RunPhase
from choral.secagg.messages import Consent, Kind, Masked, Survivors, Unmask, decode, encode
from choral.secagg.server import Phase as ServerPhase
from choral.testing.faults.disk import Disk
from choral.testing.faults.engine import Violated
from choral.testing.faults.schedule import NAMES
from choral.testing.faults.stage import Stage
from choral.wire.receipts import Receipt

Attempt = tuple[int, int]
"""Round and attempt."""

_OVER = frozenset({RunPhase.COMPLETED, RunPhase.STOPPED})


class Checks:
    """Watches the durable log, what leaves the coordinator, and all that clients ever say.

    Args:
        stage: The run.

    Attributes:
        disk: The disk.
        current: The process that is doing something now.
        machine: What the durable log makes of the run.
        committed: Survivors of each committed round.
    """

    def __init__(self, stage: Stage) -> None:
        self.disk: Disk
        self.current: Any = None
        self.machine = RunMachine(stage.setup.policy)
        self.committed: list[tuple[str, ...]] = []
        self._stage = stage
        self._params = stage.first
        self._receipts: dict[Attempt, set[str]] = defaultdict(set)
        self._committed: set[Attempt] = set()
        self._closed: dict[Attempt, frozenset[str]] = {}
        self._told: dict[Attempt, bytes] = {}
        self._said: dict[Attempt, set[tuple[str, str]]] = defaultdict(set)
        self._open: Attempt | None = None
        self._ends: dict[int, tuple[RemoteSum, tuple[Any, ...]]] = {}

    def violated(self, name: str, detail: str) -> None:
        """Say that an invariant does not hold.

        Raises:
            Violated: Always.
        """
        raise Violated(name, detail)

    # --- the durable log --------------------------------------------------------------------------

    def stored(self, records: Sequence[Record]) -> None:
        """Look at records that are durable now."""
        for record in records:
            if record.kind == STEP:
                self._step(record.body)
            else:
                self._event(from_record(record))

    def shown(self, item: Any) -> None:
        """Look at what people are shown: nothing of it may turn out not to have happened."""
        if isinstance(item, Committed) and (item.round, item.attempt) not in self._committed:
            self.violated("what is shown is durable", f"{item.round} {item.attempt}")

    def _step(self, body: dict[str, Any]) -> None:
        if self._open is None:
            return
        if body["step"] == "said":
            self._said[self._open].add((body["client"], body["body"]))
        elif body["step"] == "closed":
            survivors = frozenset(body["survivors"])
            if self._closed.setdefault(self._open, survivors) != survivors:
                self.violated("one survivor set", f"{self._open}: {sorted(survivors)}")

    def _event(self, event: Event) -> None:
        before, machine = self.machine.phase, self.machine
        round_ = machine.round
        ended = None if round_ is None else (round_, round_.phase)
        committed = machine.committed
        machine.receive(event)
        if before in _OVER and machine.phase is not before:
            self.violated("ends are absorbing", f"run {before} became {machine.phase}")
        if ended is not None and ended[1] in ENDS and ended[0].phase is not ended[1]:
            self.violated("ends are absorbing", f"round {ended[1]} became {ended[0].phase}")
        if isinstance(event, CohortChosen):
            self._open = (event.round, event.attempt)
        elif isinstance(event, Committed):
            self._commit(event, grew=machine.committed == committed + 1)
        elif isinstance(event, Evaluated):
            self._evaluated(event)

    def _commit(self, event: Committed, *, grew: bool) -> None:
        round_ = self.machine.round
        if not grew or round_ is None:
            self.violated("one commit of each round", f"round {event.round} once more")
            return
        attempt = (event.round, event.attempt)
        survivors = tuple(sorted(round_.accepted))
        missing = self._receipts[attempt] - set(survivors)
        if missing:
            self.violated("a receipt is kept", f"{sorted(missing)} not in {attempt}")
        closed = self._closed.get(attempt)
        if closed is not None and closed != set(survivors):  # else one write holds both
            self.violated("one survivor set", f"{attempt}: {closed} and {survivors}")
        self.committed.append(survivors)
        self._committed.add(attempt)
        self._model(event, survivors)

    def _model(self, event: Committed, survivors: tuple[str, ...]) -> None:
        """Hold the new model against its survivors' one-hot updates."""
        if not self.disk.whole(event.state):
            self.violated("a committed model is durable", f"round {event.round}")
        rounds = self._stage.setup.policy.rounds
        plan = self._plan(event)
        model = self._stage.model(plan, tuple(self.committed))
        params = model.params()
        moved = np.rint((params["w"] - self._params["w"]) * len(survivors)).astype(int)
        for at, count in enumerate(moved.tolist()):
            client, round_ = NAMES[at // rounds], at % rounds + 1
            if count != (client in survivors and round_ == event.round):
                self.violated("each survivor once", f"{client} of round {round_}: {count} times")
        if params.sha256 != event.model_sha256:
            self.violated(
                "each survivor once", f"round {event.round}: not the model of {survivors}"
            )
        self._params = params

    def _plan(self, event: Committed) -> Any:
        round_ = self.machine.round
        cohort = None if round_ is None else round_.cohort
        if cohort is None:
            raise Violated("one commit of each round", "a commit without a cohort")
        setup = self._stage.setup
        return setup.plan(
            setup.strategy.plan(None, event.round),
            cohort,
            round=event.round,
            attempt=event.attempt,
            spec=self._stage.participant.spec,
            model_sha256=self._params.sha256,
        )

    def _evaluated(self, event: Evaluated) -> None:
        each = event.client_metrics
        if not each:
            return
        values = [values["who"] or 0.0 for values in each.values()]
        mean = event.metrics["who"]
        if mean is None or abs(mean - sum(values) / len(values)) > 1e-9:
            self.violated("an evaluation counts once", f"{mean} of {values}")

    # --- the coordinator --------------------------------------------------------------------------

    def turned(self, process: Any, actor: Actor, more: bool) -> None:
        """Look at a driver after a turn."""
        if actor.over:
            return
        if not more and actor.left_s is None and not actor.waiting:
            phase = actor.conductor.machine.phase
            self.violated("no wait without a deadline", f"in phase {phase}")
        if self.disk.epoch == process.epoch:
            self.same(actor.conductor.machine)
        attempt = actor.conductor.attempt
        if attempt is not None and isinstance(attempt.sum, RemoteSum):
            self._absorbing(attempt.sum)

    def same(self, machine: RunMachine) -> None:
        """Hold a live machine against what the durable log makes of the run."""
        live, stored = state_of(machine), state_of(self.machine)
        if live != stored:
            self.violated("the log gives the machine", f"{live}, the log {stored}")

    def replayed(self) -> None:
        """Hold the whole log, read once more from its start, against what was made of it."""
        events = [r for r in self.disk.log if r.kind != STEP]
        self.same(replay(events, self._stage.setup.policy)[0])

    def _absorbing(self, total: RemoteSum) -> None:
        before = self._ends.get(id(total))
        now = total.step
        if before is not None:
            for was, phase in zip(before[1], now, strict=True):
                if was in {ServerPhase.DONE, ServerPhase.ABORTED} and phase is not was:
                    self.violated("ends are absorbing", f"secure sum {was} became {phase}")
        self._ends[id(total)] = (total, now)

    def receipt(self, receipt: Receipt) -> None:
        """Look at a receipt that leaves."""
        attempt = (receipt.round, receipt.attempt)
        self._receipts[attempt].add(receipt.client)
        machine = self.machine
        if machine.committed >= receipt.round:
            counted = attempt not in self._committed or (
                receipt.client in self.committed[receipt.round - 1]
            )
            if not counted:
                self.violated("a receipt is kept", f"{receipt.client} not in {attempt}")
            return
        round_ = machine.round
        if round_ is None or (round_.round, round_.attempt) != attempt:
            now = None if round_ is None else (round_.round, round_.attempt)
            if now is None or now < attempt:
                self.violated("no receipt before the log", f"{receipt.client} of {attempt}")
            return
        if round_.phase is RoundPhase.ABORTED:
            return
        if receipt.client not in round_.accepted:
            self.violated("no receipt before the log", f"{receipt.client} of {attempt}")
        if not self.disk.whole(receipt.sha256):
            self.violated("no receipt before the blob", f"{receipt.client} of {attempt}")

    def acknowledged(self, ticket: Ticket, body: bytes) -> None:
        """Look at a message that is said to be in the log."""
        attempt = (ticket.plan.round, ticket.plan.attempt)
        if self._open != attempt or self._is_over():
            return
        if (ticket.client, base64.b64encode(body).decode()) not in self._said[attempt]:
            self.violated("no acknowledgement before the log", f"{ticket.client} of {attempt}")

    def _is_over(self) -> bool:
        round_ = self.machine.round
        return round_ is None or round_.phase in ENDS

    def told(self, attempt: Attempt, body: bytes) -> None:
        """Look at the survivors of a secure sum, as a client is told of them."""
        message = decode(body)
        if not isinstance(message, Survivors):
            return
        if self._told.setdefault(attempt, message.root) != message.root:
            self.violated("one survivor set", f"two are told in {attempt}")
        if attempt not in self._closed and self.machine.committed < attempt[0]:
            self.violated("survivors are stored before they are told", f"{attempt}")


class Spoken:
    """All that clients ever say in secure sums, over all their lives.

    Args:
        checks: Where a fault is told.
    """

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._vectors: dict[tuple[str, Attempt], set[bytes]] = defaultdict(set)
        self._consents: dict[tuple[str, Attempt], set[bytes]] = defaultdict(set)
        self._answers: dict[tuple[str, Attempt], set[bytes]] = defaultdict(set)
        self._joined: dict[tuple[str, int], int] = {}
        self._kinds: dict[tuple[str, str, Attempt], set[Kind]] = defaultdict(set)
        self._holders: dict[tuple[str, Attempt, Kind], set[str]] = defaultdict(set)

    def said(self, client: str, attempt: Attempt, message: Any, *, threshold: int) -> None:
        """Look at a message that a client sends."""
        if isinstance(message, Masked):
            self.vector(client, attempt, message.digest)
        elif isinstance(message, Consent):
            self._once(self._consents[client, attempt], encode(message), f"{client} consents twice")
        elif isinstance(message, Unmask):
            self._once(self._answers[client, attempt], encode(message), f"{client} unmasks twice")
            if self._joined.setdefault((client, attempt[0]), attempt[1]) != attempt[1]:
                self._fault(f"{client} joins two sums of round {attempt[0]}")
            for revealed in message.revealed:
                self._share(client, attempt, revealed.dealer, revealed.kind, threshold)

    def vector(self, client: str, attempt: Attempt, digest: bytes) -> None:
        """Look at the digest of a masked vector that leaves, or is announced."""
        self._once(self._vectors[client, attempt], digest, f"{client} masks twice in {attempt}")

    def _share(
        self, client: str, attempt: Attempt, dealer: str, kind: Kind, threshold: int
    ) -> None:
        self._once(self._kinds[client, dealer, attempt], kind, f"{client} gives both of {dealer}")
        self._holders[dealer, attempt, kind].add(client)
        least = min(len(self._holders[dealer, attempt, k]) for k in Kind)
        if least >= threshold:
            self._fault(f"{least} clients give each kind of share of {dealer}")

    def _once(self, found: set[Any], item: Any, fault: str) -> None:
        found.add(item)
        if len(found) > 1:
            self._fault(fault)

    def _fault(self, fault: str) -> None:
        self._checks.violated("clients answer once", fault)


def state_of(machine: RunMachine) -> tuple[Any, ...]:
    """Return what two machines of the same run have in common where they are the same."""
    round_ = machine.round
    inner: tuple[Any, ...] = ()
    if round_ is not None:
        inner = (
            round_.round,
            round_.attempt,
            round_.phase,
            round_.cohort,
            tuple(round_.accepted),
            dict(round_.failed),
            round_.reason,
        )
    history = machine.history
    seen = (dict(history.completed), dict(history.last_seen))
    return (machine.phase, machine.committed, machine.reason, inner, seen)
