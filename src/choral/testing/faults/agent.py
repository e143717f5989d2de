"""A client on virtual time: the real machines and rules; its agent may end at any effect."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from typing import Any, Final, Protocol

import numpy as np

from choral.client.agent import AGAIN_S, BACKOFF_S, HELD_S, LEAST_REST_S, SLACK_S
from choral.client.calls import CALL_S, PAUSES_S, check_receipt
from choral.coordinator.desk import Farewell
from choral.coordinator.tickets import Use
from choral.core.aggregation import Secure
from choral.core.errors import ChoralError, Refused, Stale, Unavailable
from choral.core.params import ClientId
from choral.core.plan import Plan
from choral.crypto.ring import Ring, RingVector
from choral.federation.secure import ring_encoding
from choral.secagg import commands as cmd
from choral.secagg.client import Client, Phase
from choral.secagg.messages import Deliveries, Masked, decode, encode
from choral.secagg.ports import MemoryOnce
from choral.secagg.site import Expected, _slot
from choral.testing.faults.calls import Call
from choral.testing.faults.checks import Checks, Spoken
from choral.testing.faults.draws import Draws
from choral.testing.faults.engine import Clock, Ended, Engine
from choral.testing.faults.schedule import Schedule
from choral.testing.faults.stage import RUN, Stage, key_of, ring_of, site_of
from choral.wire.frames import Header, Kind
from choral.wire.joining import Join
from choral.wire.mailbox import Mailbox
from choral.wire.receipts import Receipt

OVER: Final = frozenset({Phase.COUNTED, Phase.STOPPED, Phase.ENDED})

Waits = Generator[Any, Any, Any]
"""What an agent does: it yields a call or a number of seconds, and gets the answer."""


class Field(Protocol):
    """What agents live in."""

    engine: Engine
    stage: Stage
    schedule: Schedule
    checks: Checks
    spoken: Spoken

    def client_effect(self, agent: Agent, label: str) -> None:
        """Count an effect; raise `Ended` where the client ends here."""
        ...

    def send(self, agent: Agent, call: Call) -> None:
        """Send a call on its way."""
        ...

    def killed(self, agent: Agent) -> None:
        """Take note that the client's process has ended."""
        ...


class SimOnce(MemoryOnce):
    """The durable memory of a client: it outlives its process, which may end around every write."""

    def __init__(self) -> None:
        super().__init__()
        self.effect: Callable[[str], None] = lambda label: None

    def claim(self, slot: str, answer: bytes) -> bytes:
        """Store `answer` in an empty slot; return what the slot holds now."""
        self.effect("claim")
        found = super().claim(slot, answer)
        self.effect("claimed")
        return found

    def advance(self, counter: str, value: int) -> bool:
        """Raise a counter."""
        self.effect("advance")
        found = super().advance(counter, value)
        self.effect("advanced")
        return found


class Vector:
    """The trained vector, masked in place, and what it became."""

    def __init__(self, trained: bytes, ring: Ring) -> None:
        self.masked = bytearray()
        self._trained = trained
        self._ring = ring

    def source(self) -> list[RingVector]:
        """Return the vector's one chunk."""
        return [np.frombuffer(bytearray(self._trained), self._ring.dtype)]

    def write(self, chunk: RingVector) -> None:
        """Append a masked chunk."""
        self.masked += self._ring.pack(chunk)


class Agent:
    """One client, over all its lives.

    Args:
        field: What it lives in.
        client: Its id.
    """

    once_class: type[SimOnce] = SimOnce

    def __init__(self, field: Field, client: ClientId) -> None:
        self.field = field
        self.client = client
        self.engine = field.engine
        self.clock = Clock(field.engine)
        self.once = self.once_class()
        self.once.effect = self._effect
        self.draws = Draws(field.schedule.seed, field.schedule.mode, client)
        self.alive = False
        self.counted = 0
        self._life = 0
        self._waits: Waits | None = None
        self._call: Call | None = None
        self._failed = b""

    def joined(self, round: int) -> bool:
        """Return whether its memory holds that it has helped to unmask a sum of this round.

        It may have ended after it wrote that down and before it said a word.
        """
        return self.once.read(_slot("joined", self.client, RUN, str(round))) is not None

    # --- as a process -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start, or start anew with nothing but what is durable."""
        self.alive = True
        self._life += 1
        self._failed = b""
        self._waits = self._run()
        self._go(self._life, None, None)

    def _effect(self, label: str) -> None:
        self.field.client_effect(self, label)

    def _go(self, life: int, value: Any, error: ChoralError | None) -> None:
        """Go on with an answer, until the next one is waited for."""
        if life != self._life or self._waits is None:
            return
        try:
            wait = self._waits.throw(error) if error is not None else self._waits.send(value)
        except Ended:
            self.kill()
            return
        if isinstance(wait, Call):
            self._send(life, wait)
        else:
            self.engine.at(wait, self._go, life, None, None)

    def kill(self) -> None:
        """End at once."""
        self.alive = False
        self._life += 1
        self._waits = None
        if self._call is not None:
            self._call.gone = True
            self._call = None
        self.field.killed(self)

    def _send(self, life: int, call: Call) -> None:
        self._call = call

        def answered(found: Any) -> None:
            if self._call is not call or life != self._life:
                return
            self._call = None
            if isinstance(found, ChoralError):
                self._go(life, None, found)
            else:
                self._go(life, found, None)

        call.reply = answered
        self.field.send(self, call)
        timeout = call.timeout_s
        self.engine.at(timeout, self._expire, call, answered)

    def _expire(self, call: Call, answered: Callable[[Any], None]) -> None:
        if self._call is call:
            call.gone = True
            answered(Unavailable("the time of the call is over"))

    # --- calls ------------------------------------------------------------------------------------

    def ask(self, method: str, *arguments: Any, timeout_s: float = CALL_S) -> Waits:
        """Make one call."""
        self._effect(method)
        return (yield Call(self.client, method, arguments, _nobody, timeout_s=timeout_s))

    def insist(self, call: Callable[[], Waits], *, until: float) -> Waits:
        """Repeat a call while it can succeed still and its time is not over."""
        tries = 0
        while True:
            try:
                return (yield from call())
            except ChoralError as error:
                found = error
            pause = PAUSES_S[min(tries, len(PAUSES_S) - 1)]
            if not found.retryable or self.clock.monotonic() + pause > until:
                raise found
            tries += 1
            yield pause

    # --- the agent --------------------------------------------------------------------------------

    def _run(self) -> Waits:
        tries = 1
        yield self.draws.between(0.0, 0.3)
        while True:
            join = Join(self.client, ("one_hot",), examples_bucket=1, wait_s=HELD_S)
            try:
                found = yield from self.ask("join", join, timeout_s=HELD_S + SLACK_S)
            except ChoralError:
                least, most = BACKOFF_S
                longest = min(most, least * 2.0**tries)
                tries = min(tries + 1, 16)
                yield self.draws.between(least / 2, longest)
                continue
            tries = 1
            if found is None or isinstance(found, Farewell):
                yield LEAST_REST_S
            else:
                yield from self._guarded(*found)

    def _guarded(self, use: Use, token: bytes, plan: Plan, model: str, left: float) -> Waits:
        if token == self._failed:
            yield AGAIN_S
        work = self._train if use is Use.TRAIN else self._measure
        try:
            yield from work(token, plan, model, left)
        except Stale:
            pass
        except ChoralError as error:
            self._failed = token
            until, code, text = self.clock.monotonic() + SLACK_S, error.code, error.message
            try:
                yield from self.insist(lambda: self.ask("fail", token, code, text), until=until)
            except ChoralError:
                return

    def _download(self, token: bytes, sha256: str, until: float) -> Waits:
        body = yield from self.insist(lambda: self.ask("model", token, sha256), until=until)
        if hashlib.sha256(body).hexdigest() != sha256:
            raise Refused("the coordinator sent another model than it named")

    def _measure(self, token: bytes, plan: Plan, model: str, left: float) -> Waits:
        until = self.clock.monotonic() + left
        yield from self._download(token, model, until)
        yield self.draws.between(0.0, 1.0)
        index = self.field.stage.setup.task.evaluate(None, _number(self.client))  # type: ignore[arg-type]
        yield from self.insist(lambda: self.ask("report", token, dict(index)), until=until)

    def _train(self, token: bytes, plan: Plan, model: str, left: float) -> Waits:
        until = self.clock.monotonic() + left
        yield from self._download(token, model, until)
        slow = self.field.schedule.slow_at(self.engine.now)
        trained = self.clock.monotonic() + self.draws.between(0.0, slow)
        if isinstance(plan.aggregation, Secure):
            yield from Part(self, token, plan, until=until, trained=trained).run()
            return
        if trained > until:
            yield left
            raise Unavailable("the site's work took longer than it may")
        yield trained - self.clock.monotonic()
        body = self.field.stage.body(self.client, plan)
        receipt = yield from self.upload(token, plan, body, until=until)
        self._check(receipt, plan, body)

    def upload(self, token: bytes, plan: Plan, body: bytes, *, until: float) -> Waits:
        """Send bytes; after a cut, go on where the coordinator has got to. Return the receipt."""
        secure = isinstance(plan.aggregation, Secure)
        kind = Kind.MASKED if secure else Kind.CONTRIBUTION
        sha256 = hashlib.sha256(body).hexdigest()
        state = {"offset": 0, "first": True}

        def once() -> Waits:
            if not state["first"]:
                status = yield from self.ask("held", token, sha256)
                if isinstance(status, Receipt):
                    return status
                state["offset"] = status
            state["first"] = False
            header = Header(kind, token, sha256, len(body), offset=state["offset"])
            sent = self.again(body)
            if secure:
                attempt = (plan.round, plan.attempt)
                self.field.spoken.vector(self.client, attempt, hashlib.sha256(sent).digest())
            return (yield from self.ask("upload", header, sent[state["offset"] :]))

        return (yield from self.insist(once, until=until))

    def again(self, body: bytes) -> bytes:
        """Return the bytes of an upload, each time that it is sent."""
        return body

    def _check(self, receipt: Receipt, plan: Plan, body: bytes) -> None:
        sha256 = hashlib.sha256(body).hexdigest()
        expected = Receipt(plan.run_id, plan.round, plan.attempt, self.client, sha256, len(body))
        key = key_of("coordinator")
        if receipt.signature != key.sign(expected.stated()):
            check_receipt(receipt, server=key.public, expected=expected)


class Part:
    """A client's part in one attempt at a secure sum: see `choral.client.secure`.

    Args:
        agent: Whose.
        token: Of its work.
        plan: The round's terms.
        until: When its time is over.
        trained: When its vector is there.
    """

    def __init__(
        self, agent: Agent, token: bytes, plan: Plan, *, until: float, trained: float
    ) -> None:
        self._agent = agent
        self._token = token
        self._until = until
        self._trained = trained
        self._attempt = (plan.round, plan.attempt)
        self._mailbox = Mailbox()
        self._deliveries: bytes | None = None
        self._plan = plan
        stage = agent.field.stage
        self._files = Vector(stage.body(agent.client, plan), ring_of(plan))
        expected = Expected(
            plan.run_id,
            plan.round,
            (bytes.fromhex(plan.model_sha256),),
            bytes.fromhex(plan.digest),
            ring_encoding(plan.encoding, stage.participant.spec.vector_size),  # type: ignore[arg-type]
        )
        self._machine = Client(
            site_of(agent.client),
            expected,
            rand=agent.draws,
            once=agent.once,
            source=self._files.source,
            sink=self._files,
        )

    def run(self) -> Waits:
        """Take part, from the invitation to the result."""
        try:
            while (yield from self._step()):
                pass
        except Stale:
            pass
        self._machine.receive(cmd.Ended())

    def _step(self) -> Waits:
        reply = yield from self._exchange(HELD_S)
        yield from self._take(reply)
        if self._deliveries is not None:
            yield from self._mask()
            return True
        finished = self._machine.phase in OVER and not self._mailbox.waiting
        return not (finished or (reply.ended and not self._mailbox.waiting))

    def _exchange(self, wait_s: float) -> Waits:
        busy = self._mailbox.waiting
        message = self._mailbox.message(self._token, wait_s=0.0 if busy else wait_s)
        ask, until = self._agent.ask, self._until + HELD_S
        return (
            yield from self._agent.insist(
                lambda: ask("exchange", message, timeout_s=wait_s + HELD_S), until=until
            )
        )

    def _take(self, reply: Any) -> Waits:
        for body in self._mailbox.take(reply):
            if isinstance(decode(body), Deliveries):
                self._deliveries = body
            else:
                yield from self._do(body)

    def _mask(self) -> Waits:
        wait = self._trained - self._agent.clock.monotonic()
        if wait > 0:
            yield wait
        body, self._deliveries = self._deliveries, None
        if body is not None:
            yield from self._do(body)

    def _do(self, body: bytes) -> Waits:
        over = self._machine.phase
        self._agent.field.client_effect(self._agent, "heard")
        commands = self._machine.receive(body)
        if over in OVER and (commands or self._machine.phase is not over):
            self._agent.field.checks.violated("ends are absorbing", f"{over} goes on")
        self._agent.field.client_effect(self._agent, "acted")
        for command in commands:
            if isinstance(command, cmd.Counted):
                self._agent.counted = self._attempt[0]
            elif isinstance(command, cmd.Upload):
                yield from self._upload(command.message)
            elif isinstance(command, cmd.Send):
                self._post(command.message)

    def _post(self, message: Any) -> None:
        threshold = self._threshold()
        self._agent.field.spoken.said(
            self._agent.client, self._attempt, message, threshold=threshold
        )
        self._mailbox.post(encode(message))

    def _threshold(self) -> int:
        return self._plan.quorum

    def _upload(self, message: Masked) -> Waits:
        self._post(message)
        while self._mailbox.waiting:
            yield from self._take((yield from self._exchange(0.0)))
        body = bytes(self._files.masked)
        receipt = yield from self._agent.upload(self._token, self._plan, body, until=self._until)
        self._agent._check(receipt, self._plan, body)


def _number(client: ClientId) -> int:
    return ord(client) - ord("a")


def _nobody(found: Any) -> None:
    """Nobody waits yet."""
