"""A coordinator's process: the real driver of a run, which may end at any effect."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from choral.coordinator.actor import BATCH, Actor
from choral.coordinator.gate import Trigger
from choral.coordinator.population import Population
from choral.coordinator.tickets import Message, Ticket
from choral.coordinator.uploads import Kept
from choral.coordinator.world import Keys, World
from choral.core.errors import ChoralError, Fenced, StoreError
from choral.core.params import Params
from choral.core.release import Released
from choral.core.tensors import encode_tensors
from choral.federation.journal import Journal
from choral.testing.faults.calls import CUT, Call, Loop, Service, SimDesk
from choral.testing.faults.checks import Checks
from choral.testing.faults.disk import Disk, DiskBlobStore, DiskRunStore, Folder
from choral.testing.faults.draws import Draws
from choral.testing.faults.engine import Clock, Ended, Engine
from choral.testing.faults.stage import RUN, STEP_S, Stage, key_of, with_source
from choral.wire.receipts import Receipt

RECOVERY_S: Final = 0.3
"""Longest time that a process needs until it takes its run up again."""
LATE_S: Final = 0.01
"""Longest time until a run's thread looks at a message."""
TRIGGER: Final = Trigger(wait_s=5.0, settle_s=1.0)


class Around(Protocol):
    """What a process lives in."""

    engine: Engine
    stage: Stage
    disk: Disk
    checks: Checks
    draws: Draws
    wall: float

    def effect(self, process: Process, label: str) -> None:
        """Count an effect; raise `Ended` where the process ends here."""
        ...

    def refuses(self) -> bool:
        """Return whether the disk refuses a write now."""
        ...

    def ended(self, process: Process, why: str) -> None:
        """Take note that a process has ended."""
        ...


class SimActor(Actor):
    """The real driver; its messages wait in a list until the simulation gives it a turn."""

    host: Process

    def post(self, message: Message) -> None:
        """Tell the run something."""
        if self._left:
            super().post(message)
        else:
            self.host.posted(message)


class Process:
    """One coordinator process, from its start until it ends or is killed.

    Args:
        around: What it lives in.
        number: Counts the processes.
    """

    actor_class: type[SimActor] = SimActor
    service_class: type[Service] = Service
    store_class: type[DiskRunStore] = DiskRunStore
    blobs_class: type[DiskBlobStore] = DiskBlobStore

    def __init__(self, around: Around, number: int) -> None:
        self.around = around
        self.number = number
        self.name = f"coord-{number}"
        self.engine = around.engine
        self.alive = True
        self.over = False
        self.epoch = 0
        self.slow_until = 0.0
        self.clock = Clock(around.engine)
        self.clock.jumped = around.wall
        loop = Loop(self.engine, self.guard)
        self.desk = SimDesk(
            loop, engine=self.engine, clock=self.clock, guard=self.guard, told=self._told
        )
        self.spool = Folder()
        self.models: dict[str, bytes] = {}
        self.service = self.service_class(self)
        self.actor: SimActor | None = None
        self._inbox: deque[Message] = deque()
        self._calls: dict[int, Call] = {}
        self._wake = 0
        self._woken_at = float("inf")
        self.store = self.store_class(around.disk, self.effect)
        self.blobs = self.blobs_class(around.disk, self.effect)

    # --- as a process -----------------------------------------------------------------------------

    def guard(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Make a call as this process: nothing of it happens once the process has ended."""
        if not self.alive:
            return
        try:
            self.around.checks.current = self
            call(*arguments)
        except Ended:
            self.stop("crash")
        finally:
            self.around.checks.current = None

    def effect(self, label: str) -> None:
        """Come to an effect: the process may end here, and the disk may refuse."""
        if not self.alive:
            raise Ended
        self.around.effect(self, label)
        if label in _WRITES and self.around.refuses():
            raise StoreError("no space is left")

    def stop(self, why: str) -> None:
        """End at once: nothing is put in order."""
        if not self.alive:
            return
        self.alive = False
        calls, self._calls = tuple(self._calls.values()), {}
        for call in calls:
            call.reply(CUT)
        self.around.ended(self, why)

    def start(self) -> None:
        """Start: calls are answered at once, the run is taken up a moment later."""
        self.desk.expect(RUN)
        self.engine.at(
            self.around.draws.between(0.0, RECOVERY_S), self.guard, self._driven, self._begin
        )

    def _begin(self) -> None:
        setup = self.around.stage.setup
        population = Population()
        lease = self.store.acquire(RUN)
        self.epoch = lease.epoch
        blobs: Any = self.blobs
        folder: Any = Folder()
        world = World(
            self.desk,
            self.clock,
            self.around.draws,
            Keys(key_of("coordinator"), key_of("authority").public),
            self.publish,
            Kept(blobs, folder),
            self._pause,
        )
        actor = self.actor_class(
            with_source(setup, population),
            population=population,
            trigger=TRIGGER,
            participant=self.around.stage.participant,
            first=self.around.stage.first,
            journal=Journal(self.store, blobs, lease),
            world=world,
            suits=lambda join: "",
            auditing=(self.observe,),
            observers=(self.around.checks.shown,),
            step_s=STEP_S,
        )
        actor.host = self
        self.actor = actor
        actor.start()
        self.desk.returned(RUN)
        self.around.checks.turned(self, actor, bool(self._inbox))
        self._rest(actor)

    def observe(self, item: Any) -> None:
        """See an event, a command or a failure."""
        if self.engine.traced:
            self.engine.say(self.name, _short(item))

    def publish(self, model: Released[Params]) -> int:
        """Make a model ready to be downloaded."""
        body = b"".join(encode_tensors(model.value))
        digest = self.blobs.put((body,))
        self.models[digest] = body
        while len(self.models) > 2:
            old = next(iter(self.models))
            del self.models[old]
            self.blobs.delete(old)
        return len(body)

    def _pause(self, seconds: float) -> None:
        """Let the run's thread wait: time passes for everybody, and messages pile up."""
        self.engine.now += seconds
        self.effect("pause")

    # --- a run's thread ---------------------------------------------------------------------------

    def posted(self, message: Message) -> None:
        """Keep a message until the run's thread looks."""
        self._inbox.append(message)
        self._wake_in(self.around.draws.between(0.0, LATE_S))

    def _wake_in(self, seconds: float) -> None:
        at = max(self.engine.now + seconds, self.slow_until)
        if at < self._woken_at:
            self._wake += 1
            self._woken_at = at
            self.engine.at(at - self.engine.now, self.guard, self._look, self._wake)

    def _look(self, wake: int) -> None:
        if wake != self._wake:
            return
        self._woken_at = float("inf")
        if self.engine.now < self.slow_until:
            self._wake_in(0.0)
            return
        self._driven(self._turn)

    def _turn(self) -> None:
        actor = self.actor
        if actor is None or self.over:
            return
        count = min(len(self._inbox), BATCH)
        if count > 1 and self.around.draws.chance(0.5):
            count = 1 + self.around.draws.below(count)
        messages = [self._inbox.popleft() for _ in range(count)]
        actor.turn(messages)
        self.around.checks.turned(self, actor, bool(self._inbox))
        self._rest(actor)

    def _rest(self, actor: SimActor) -> None:
        """Wait for what comes next, or leave a run that is over."""
        if actor.over:
            self._leave(actor)
            self.stop("drained" if actor.drained else "over")
            return
        if self._inbox:
            self._wake_in(0.0)
        elif actor.left_s is not None:
            self._wake_in(actor.left_s)

    def _leave(self, actor: SimActor) -> None:
        self.over = True
        waiting, self._inbox = list(self._inbox), deque()
        actor.leave()
        for message in waiting:
            actor.post(message)

    def _driven(self, call: Callable[[], None]) -> None:
        """Do something on the run's thread, as `Actor.run` does it."""
        try:
            call()
        except Fenced:
            self._failed("fenced")
        except ChoralError as error:
            self.around.checks.violated("the driver goes on", f"{error.code}: {error}")

    def _failed(self, why: str) -> None:
        if self.actor is not None:
            self._leave(self.actor)
        self.engine.at(self.around.draws.between(0.0, 0.5), self.guard, self.stop, why)

    # --- calls ------------------------------------------------------------------------------------

    def take(self, call: Call) -> None:
        """Take a call of a client's."""
        reply = call.reply

        def answer(found: Any) -> None:
            self._calls.pop(id(call), None)
            if not call.gone:
                reply(found)

        self._calls[id(call)] = call
        call.reply = answer
        self.service.take(call)

    def pool_delay(self) -> float:
        """Return how long a thread of the pool takes."""
        return self.around.draws.between(0.0, LATE_S)

    def _told(self, ticket: Ticket, body: bytes) -> None:
        self.around.checks.told((ticket.plan.round, ticket.plan.attempt), body)

    def receipted(self, ticket: Ticket, receipt: Receipt) -> None:
        """Note that a receipt leaves."""
        self.around.checks.receipt(receipt)

    def acknowledged(self, ticket: Ticket, body: bytes) -> None:
        """Note that a message is said to be in the log."""
        self.around.checks.acknowledged(ticket, body)


_WRITES: Final = frozenset({"append", "blob"})


def _short(item: Any) -> str:
    """Return an event or command in one line."""
    names: Sequence[str] = getattr(item, "__slots__", ())
    shown = [f"{n}={getattr(item, n)!r}" for n in names if n not in {"details", "metrics", "state"}]
    return f"{type(item).__name__}({', '.join(shown)})"[:160]
