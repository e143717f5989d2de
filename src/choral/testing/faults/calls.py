"""The coordinator's calls, as a client sees them: what the real service does, without a network."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from choral.coordinator.desk import Desk, Farewell, Presence
from choral.coordinator.service import MAX_WAIT_S, _heard, _settle
from choral.coordinator.spool import SpoolFile
from choral.coordinator.tickets import Arrived, GaveUp, Reported, Said, Ticket, Use
from choral.coordinator.transfers import WINDOW_BYTES, spool_for
from choral.core.aggregation import RingGrid
from choral.core.errors import (
    ChoralError,
    ClientError,
    Malformed,
    OutOfOrder,
    Stale,
    Truncated,
    WrongDigest,
    by_code,
)
from choral.crypto.encoding import frame
from choral.testing.faults.disk import Folder
from choral.testing.faults.engine import Clock, Engine
from choral.wire.frames import Header
from choral.wire.joining import Join
from choral.wire.receipts import Receipt

_SURVIVORS: Final = frame("secagg survivors")

CUT: Final = object()
"""Stands for an answer where the line is cut."""


@dataclass(slots=True, eq=False)
class Call:
    """One call of a client's.

    Attributes:
        client: Who calls.
        method: What.
        arguments: Of the method.
        reply: Takes the answer, or an error, at the coordinator's end.
        whole: Fraction of an upload that arrives.
        gone: The client does not wait for it any more.
        timeout_s: How long the client waits.
    """

    client: Any
    method: str
    arguments: tuple[Any, ...]
    reply: Callable[[Any], None]
    whole: float = 1.0
    gone: bool = False
    timeout_s: float = 30.0


class Later:
    """A value that will be there: stands for a future of the event loop."""

    __slots__ = ("_after", "error", "settled", "value")

    def __init__(self) -> None:
        self.settled = False
        self.value: Any = None
        self.error: BaseException | None = None
        self._after: list[Callable[[Later], None]] = []

    def done(self) -> bool:
        """Return whether it is there."""
        return self.settled

    def set_result(self, value: Any) -> None:
        """Give the value."""
        self._settle(value, None)

    def set_exception(self, error: BaseException) -> None:
        """Say why there is none."""
        self._settle(None, error)

    def exception(self) -> BaseException | None:
        """Return why there is none."""
        return self.error

    def then(self, call: Callable[[Later], None]) -> None:
        """Make a call once it is there."""
        if self.settled:
            call(self)
        else:
            self._after.append(call)

    def _settle(self, value: Any, error: BaseException | None) -> None:
        self.settled, self.value, self.error = True, value, error
        calls, self._after = self._after, []
        for call in calls:
            call(self)


class Bell:
    """Rings once for whoever listens: stands for an event of the event loop."""

    __slots__ = ("_listens",)

    def __init__(self) -> None:
        self._listens: list[Callable[[], None]] = []

    def set(self) -> None:
        """Ring."""
        calls, self._listens = self._listens, []
        for call in calls:
            call()

    def clear(self) -> None:
        """Nothing to do: a bell that nobody heard does not ring later."""

    def listen(self, call: Callable[[], None]) -> None:
        """Make a call when it rings next."""
        self._listens.append(call)


class Loop:
    """Stands for the event loop: what is put on it happens soon, in order."""

    def __init__(self, engine: Engine, guard: Callable[..., None]) -> None:
        self._engine = engine
        self._guard = guard

    def call_soon_threadsafe(self, call: Callable[..., None], *arguments: Any) -> None:
        """Make a call soon."""
        self._engine.at(0.0, self._guard, call, *arguments)

    def is_closed(self) -> bool:
        """Return false: what is put on the loop of a process that has ended never happens."""
        return False


class SimDesk(Desk):
    """The real desk; only a held call waits on virtual time.

    Args:
        loop: Stands for the event loop.
        engine: Virtual time.
        clock: The coordinator's.
        guard: Makes a call as the coordinator's process.
        told: Called with the survivors of a secure sum as they are told to a client.
    """

    def __init__(
        self,
        loop: Any,
        *,
        engine: Engine,
        clock: Clock,
        guard: Callable[..., None],
        told: Callable[[Ticket, bytes], None],
    ) -> None:
        super().__init__(loop, clock)
        self._told = told
        self._engine = engine
        self._guard = guard

    def _assign(self, tickets: Any) -> None:
        for ticket in tickets:
            ticket.bell = Bell()
        super()._assign(tickets)

    def tell(self, ticket: Ticket, body: bytes) -> None:
        """Put a message of secure aggregation into a client's mailbox."""
        if body.startswith(_SURVIVORS):
            self._told(ticket, body)
        super().tell(ticket, body)

    def hold(
        self,
        join: Join,
        answer: Callable[[Ticket | Farewell | None], None],
        gone: Callable[[], bool],
    ) -> None:
        """Hold a client's call until there is something for it to do."""
        presence = self._arrived(join)
        found = presence.next()
        if found is not None:
            presence.seen = self._clock.monotonic()
            answer(found)
            return
        presence.holding += 1
        presence.wake()
        waiting = Later()
        held: Any = presence
        held.waiting = waiting

        def over(later: Later) -> None:
            presence.holding -= 1
            presence.seen = self._clock.monotonic()
            rung = later.value is None and held.waiting is waiting and not gone()
            answer(presence.next() if rung else None)

        waiting.then(over)
        self._engine.at(min(join.wait_s, MAX_WAIT_S), self._guard, _give_up, waiting)

    def let_go(self, presence: Presence) -> None:
        """End the held call of a client whose line is cut."""
        waiting: Any = presence.waiting
        if waiting is not None and not waiting.done():
            waiting.set_result("cut")


def _give_up(waiting: Later) -> None:
    if not waiting.done():
        waiting.set_result("time is over")


class Host(Protocol):
    """What the calls need of their process."""

    engine: Engine
    clock: Clock
    desk: SimDesk
    spool: Folder
    models: dict[str, bytes]

    def guard(self, call: Callable[..., None], *arguments: Any) -> None:
        """Make a call as this process."""
        ...

    def pool_delay(self) -> float:
        """Return how long a thread of the pool takes."""
        ...

    def receipted(self, ticket: Ticket, receipt: Receipt) -> None:
        """Note that a receipt leaves."""
        ...

    def acknowledged(self, ticket: Ticket, body: bytes) -> None:
        """Note that a message is said to be in the log."""
        ...


class Service:
    """`choral.v1.Coordinator` in virtual time: see `choral.coordinator.service`.

    Args:
        host: The process.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._taken: dict[bytes, bytes] = {}

    def take(self, call: Call) -> None:
        """Answer a call, now or later."""
        try:
            _METHODS[call.method](self, call, *call.arguments)
        except ChoralError as error:
            call.reply(error)

    # --- work -------------------------------------------------------------------------------------

    def join(self, call: Call, join: Join) -> None:
        """Hold the call until there is something to say."""

        def answer(found: Ticket | Farewell | None) -> None:
            if isinstance(found, Ticket):
                left = max(0.0, found.deadline - self.host.clock.monotonic())
                call.reply((found.use, found.token, found.plan, found.model_sha256, left))
            else:
                call.reply(found)

        self.host.desk.hold(join, answer, lambda: call.gone)

    def model(self, call: Call, token: bytes, sha256: str) -> None:
        """Give a model."""
        ticket = self.host.desk.ticket(token, call.client)
        body = self.host.models.get(ticket.model_sha256)
        if body is None or sha256 != ticket.model_sha256:
            raise Stale("this model is no longer given out")
        call.reply(body)

    # --- uploads ----------------------------------------------------------------------------------

    def upload(self, call: Call, header: Header, data: bytes) -> None:
        """Take the bytes of a contribution; the answer is a receipt."""
        ticket = self.host.desk.ticket(header.token, call.client)
        if ticket.use is not Use.TRAIN:
            raise Malformed("an upload for work that has none")
        ticket.stream = call
        path: Any = self.host.spool / f"{ticket.token.hex()}.upload"
        spool = spool_for(ticket, header, path)
        part = data[: int(len(data) * call.whole)] if call.whole < 1.0 else data
        if header.offset > spool.held():
            raise OutOfOrder(f"offset {header.offset}, held are {spool.held()}")
        if part and header.offset + len(part) > spool.held():
            spool.write(header.offset, memoryview(part))
        self._note(ticket, spool)
        if spool.held() < header.size_bytes or len(part) < len(data):
            raise Truncated("the stream was cut")
        if hashlib.sha256(b"".join(spool.prefix())).hexdigest() != header.sha256:
            spool.discard()
            raise WrongDigest("other bytes than announced")
        if ticket.receipt is not None:
            self._receipt(call, ticket, ticket.receipt)
        else:
            self.deliver(call, ticket)

    def _note(self, ticket: Ticket, spool: SpoolFile) -> None:
        held = spool.held()
        if ticket.moved == -math.inf or held >= ticket.moved_bytes + WINDOW_BYTES:
            ticket.moved, ticket.moved_bytes = self.host.clock.monotonic(), held

    def deliver(self, call: Call, ticket: Ticket) -> None:
        """Hand a whole upload to its run, once; the call waits for what the run says."""
        if ticket.answer is None:
            if ticket.upload is None:
                raise Stale("the work is over")
            ticket.answer = cast("Any", Later())
            delay = self.host.pool_delay()
            self.host.engine.at(delay, self.host.guard, self.keep, ticket, *ticket.upload)
        answer: Any = ticket.answer
        answer.then(lambda later: self._answered(call, ticket, later.value))

    def keep(self, ticket: Ticket, upload: SpoolFile, header: Header) -> None:
        """Make an upload durable, and post it."""
        try:
            ticket.keep(upload, header.sha256)
        except ChoralError as error:
            _settle(ticket, error)
            return

        def reply(found: Receipt | ChoralError) -> None:
            self.host.engine.at(0.0, self.host.guard, _settle, ticket, found)

        ticket.post(Arrived(ticket, upload, header, reply))

    def _answered(self, call: Call, ticket: Ticket, found: Receipt | ChoralError) -> None:
        if isinstance(found, Receipt):
            self._receipt(call, ticket, found)
        else:
            call.reply(found)

    def _receipt(self, call: Call, ticket: Ticket, receipt: Receipt) -> None:
        self.host.receipted(ticket, receipt)
        call.reply(receipt)

    def held(self, call: Call, token: bytes, sha256: str) -> None:
        """Say how much of an upload is held."""
        ticket = self.host.desk.ticket(token, call.client, over=True)
        if ticket.receipt is not None and ticket.receipt.sha256 == sha256:
            self._receipt(call, ticket, ticket.receipt)
        elif ticket.over:
            raise Stale("the work is over")
        elif ticket.upload is not None and ticket.upload[1].sha256 == sha256:
            call.reply(ticket.upload[0].held())
        else:
            call.reply(0)

    # --- words ------------------------------------------------------------------------------------

    def exchange(self, call: Call, message: Any) -> None:
        """Take a message of secure aggregation, and give the next one."""
        ticket = self.host.desk.ticket(message.token, call.client, over=True)
        if ticket.use is not Use.TRAIN or not isinstance(ticket.plan.encoding, RingGrid):
            raise Malformed("a message of secure aggregation for work without it")
        for body in ticket.mailbox.take(message):
            if not ticket.over:
                self._taken[ticket.token] = body
                self.say(ticket, body)
        if ticket.hearing is None:
            self._hold(call, ticket, message.wait_s)
            return
        hearing: Any = ticket.hearing

        def heard(later: Later) -> None:
            if later.error is not None:
                call.reply(later.error)
            else:
                self._hold(call, ticket, message.wait_s)

        hearing.then(heard)

    def say(self, ticket: Ticket, body: bytes) -> None:
        """Hand a message to its run; it is acknowledged once it is in the log."""
        hearing: Any = Later()
        ticket.hearing = hearing

        def heard(stored: bool) -> None:
            self.host.engine.at(0.0, self.host.guard, _heard, hearing, stored)

        ticket.post(Said(ticket, body, heard))

    def _hold(self, call: Call, ticket: Ticket, wait_s: float) -> None:
        if ticket.mailbox.waiting or ticket.over or wait_s <= 0 or call.gone:
            self._give(call, ticket)
            return
        waiting = Later()
        waiting.then(lambda _: self._give(call, ticket))
        cast("Any", ticket.bell).listen(lambda: _give_up(waiting))
        self.host.engine.at(min(wait_s, MAX_WAIT_S), self.host.guard, _give_up, waiting)

    def _give(self, call: Call, ticket: Ticket) -> None:
        if not call.gone:
            body = self._taken.get(ticket.token)
            if body is not None:  # the answer says that it is there
                self.host.acknowledged(ticket, body)
            ended = ticket.over and not ticket.mailbox.waiting
            call.reply(ticket.mailbox.message(ticket.token, ended=ended))

    def fail(self, call: Call, token: bytes, code: str, text: str) -> None:
        """Take note that a client cannot do its work."""
        ticket = self.host.desk.ticket(token, call.client)
        known = by_code(code)
        ticket.done = True
        if not ticket.gave_up:
            ticket.gave_up = True
            told = ClientError.code if known is ChoralError else known.code
            ticket.post(GaveUp(ticket, told, text))
        call.reply(True)

    def report(self, call: Call, token: bytes, metrics: dict[str, float]) -> None:
        """Take what a client measured."""
        ticket = self.host.desk.ticket(token, call.client)
        if ticket.use is not Use.EVALUATE:
            raise Malformed("an evaluation for work that is none")
        ticket.done = True
        ticket.post(Reported(ticket, metrics, 1))
        call.reply(True)

    def cut(self, call: Call) -> None:
        """End what is held for a client whose line is cut."""
        call.gone = True
        if call.method == "join":
            presence = self.host.desk.presences().get(call.client)
            if presence is not None:
                self.host.desk.let_go(presence)


_METHODS: Final[dict[str, Callable[..., None]]] = {
    "join": lambda service, *rest: service.join(*rest),
    "model": lambda service, *rest: service.model(*rest),
    "upload": lambda service, *rest: service.upload(*rest),
    "held": lambda service, *rest: service.held(*rest),
    "exchange": lambda service, *rest: service.exchange(*rest),
    "fail": lambda service, *rest: service.fail(*rest),
    "report": lambda service, *rest: service.report(*rest),
}
