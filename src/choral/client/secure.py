"""A client's part in a secure sum: the machine of `choral.secagg`, fed over calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from choral.client.calls import Calls
from choral.core.errors import ChoralError, Stale
from choral.core.failpoints import reach
from choral.core.ports import Clock, Rand
from choral.crypto.ring import Ring, RingVector
from choral.secagg import commands as cmd
from choral.secagg.client import Client, Phase
from choral.secagg.messages import Deliveries, Masked, decode, encode
from choral.secagg.ports import OnceStore
from choral.secagg.refusals import Breach
from choral.secagg.site import Expected, Site
from choral.wire.frames import Kind
from choral.wire.joining import Assignment
from choral.wire.mailbox import Mailbox
from choral.wire.receipts import Receipt
from choral.wire.v1 import coordinator_pb2 as pb

HELD_S: Final = 20.0
_CHUNK: Final = 1 << 18
"""Elements that are masked at a time."""
_OVER: Final = frozenset({Phase.COUNTED, Phase.STOPPED, Phase.ENDED})


class VectorFile:
    """The trained vector in its file, and the masked one beside it.

    Args:
        trained: Elements of the ring as NumPy keeps them; read once, then removed.
        masked: Where the packed, masked elements go.
        ring: The ring.
    """

    def __init__(self, trained: Path, masked: Path, ring: Ring) -> None:
        self.masked = masked
        self._trained = trained
        self._ring = ring

    def source(self) -> Iterator[RingVector]:
        """Yield the vector's chunks, which are masked in place."""
        with self._trained.open("rb") as file:
            width = self._ring.dtype.itemsize
            while block := file.read(_CHUNK * width):
                yield np.frombuffer(bytearray(block), self._ring.dtype)

    def write(self, chunk: RingVector) -> None:
        """Append a masked chunk."""
        with self.masked.open("ab") as file:
            file.write(self._ring.pack(chunk))

    def forget(self) -> None:
        """Remove both."""
        self._trained.unlink(missing_ok=True)
        self.masked.unlink(missing_ok=True)


class SecureRound:
    """One attempt at a round.

    Args:
        assignment: What to do.
        site: Identity and policy.
        expected: What this client downloaded and computed itself.
        once: Its durable answers.
        files: Its vector.
        calls: The coordinator.
        rand: Secret randomness.
        clock: Time.

    Attributes:
        receipt: For the upload, once it is there.
        counted: The signed result counts this client.
        stopped: Why its part ended before that; the coordinator was told in the protocol itself.
    """

    def __init__(
        self,
        assignment: Assignment,
        site: Site,
        expected: Expected,
        *,
        once: OnceStore,
        files: VectorFile,
        calls: Calls,
        rand: Rand,
        clock: Clock,
    ) -> None:
        self.receipt: Receipt | None = None
        self.counted = False
        self.stopped: Breach | None = None
        self._token = assignment.token
        self._without_crc = assignment.without_crc
        self._until = clock.monotonic() + assignment.deadline_s
        self._calls = calls
        self._clock = clock
        self._files = files
        self._mailbox = Mailbox()
        self._deliveries: bytes | None = None
        self._machine = Client(
            site, expected, rand=rand, once=once, source=files.source, sink=files
        )

    async def run(self, training: asyncio.Task[None]) -> None:
        """Take part, from the invitation to the result.

        Args:
            training: Ends when the vector is in its file; raises where there will be none.

        Raises:
            ChoralError: The training failed, or the coordinator cannot be reached any more.
        """
        try:
            while await self._step(training):
                pass
        except Stale:
            pass  # the attempt is over, with this client or without it
        finally:
            await asyncio.to_thread(self._machine.receive, cmd.Ended())

    async def _step(self, training: asyncio.Task[None]) -> bool:
        """Exchange one message; return whether there may be another."""
        exchange = asyncio.ensure_future(self._exchange(HELD_S))
        waiting: set[asyncio.Future[object]] = {exchange}  # type: ignore[arg-type]
        if not training.done():
            waiting.add(training)  # type: ignore[arg-type]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not exchange.done():
            if not training.cancelled() and training.exception() is None and not self._deliveries:
                reply = await exchange  # trained before the others: nothing to mask with yet
            else:
                exchange.cancel()
                training.result()
                await self._mask()
                return True
        else:
            reply = exchange.result()
        await self._take(reply)
        if training.done() and self._deliveries is not None:
            training.result()
            await self._mask()
            return True
        if training.done() and not training.cancelled() and training.exception() is not None:
            training.result()
        finished = self._machine.phase in _OVER and not self._mailbox.waiting
        return not (finished or (reply.ended and not self._mailbox.waiting))

    async def _exchange(self, wait_s: float) -> pb.ProtocolMessage:
        """Send our oldest message that is wanted, and return the other side's."""
        busy = self._mailbox.waiting
        message = self._mailbox.message(self._token, wait_s=0.0 if busy else wait_s)

        async def once() -> pb.ProtocolMessage:
            return await self._calls.stubs.exchange(
                message, metadata=self._calls.metadata, timeout=wait_s + HELD_S
            )

        return await self._calls.insist(once, until=self._until + HELD_S)

    async def _take(self, reply: pb.ProtocolMessage) -> None:
        for body in self._mailbox.take(reply):
            try:
                held = isinstance(decode(body), Deliveries)
            except ChoralError:
                held = False  # the machine says what is wrong with it
            if held:
                self._deliveries = body
            else:
                await self._do(body)

    async def _mask(self) -> None:
        """Mask the vector, now that it is trained and everybody's keys are there."""
        body, self._deliveries = self._deliveries, None
        if body is not None:
            await self._do(body)

    async def _do(self, body: bytes) -> None:
        """Feed a message to the machine, and do what it asks."""
        reach("client.secure.heard")
        commands = await asyncio.to_thread(self._machine.receive, body)
        reach("client.secure.acted")
        for command in commands:
            if isinstance(command, cmd.Stopped):
                self.stopped = command.breach
            elif isinstance(command, cmd.Counted):
                self.counted = True
            elif isinstance(command, cmd.Upload):
                await self._upload(command.message)
            else:
                self._mailbox.post(encode(command.message))

    async def _upload(self, message: Masked) -> None:
        """Announce the masked vector, then send it."""
        reach("client.secure.masked")
        self._mailbox.post(encode(message))
        while self._mailbox.waiting:
            await self._take(await self._exchange(0.0))
        self.receipt = await self._calls.upload(
            self._token,
            self._files.masked,
            Kind.MASKED,
            sha256=message.digest.hex(),
            until=self._until,
            without_crc=self._without_crc,
        )
