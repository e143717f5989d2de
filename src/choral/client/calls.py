"""Calls to the coordinator that are repeated until they succeed, or will not."""

from __future__ import annotations

import asyncio
import hashlib
import mmap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import grpc

from choral.client.cache import ModelCache
from choral.client.line import Line
from choral.client.who import Metadata
from choral.core.errors import ChoralError, Refused, Stale, Unavailable
from choral.core.ports import Clock
from choral.crypto.signatures import verify
from choral.wire.errors import from_rpc_error
from choral.wire.frames import Header, Kind
from choral.wire.joining import Evaluation, evaluation_to_proto
from choral.wire.lane import Lane, ahead
from choral.wire.receipts import Receipt, receipt_from_proto
from choral.wire.rpc import CoordinatorCalls
from choral.wire.transfer import Blocks, Limits, Receiving, Sending
from choral.wire.v1 import coordinator_pb2 as pb
from choral.wire.versions import PROTOCOL_VERSION

CALL_S: Final = 30.0
"""Longest wait for the answer of a call that is not held on purpose."""
STALL_S: Final = 60.0
"""A download that brings nothing for so long, or an upload that does not move, is begun anew."""
PAUSES_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Between the repeats of a call; the last one is repeated."""

T = TypeVar("T")


class Calls:
    """What a client asks of its coordinator.

    Args:
        line: The connection.
        metadata: Goes with every call.
        clock: Time.
        tls: Whether the line keeps every byte whole, so that chunks need no checksum of their own.
    """

    def __init__(self, line: Line, metadata: Metadata, clock: Clock, *, tls: bool = False) -> None:
        self._line = line
        self._tls = tls
        self.metadata = metadata
        self._clock = clock

    @property
    def stubs(self) -> CoordinatorCalls:
        """The calls of the coordinator that answers now."""
        return self._line.stubs

    async def insist(
        self, call: Callable[[], Awaitable[T]], *, until: float | Callable[[], float]
    ) -> T:
        """Repeat a call while it can succeed still and its time is not over.

        Args:
            call: Makes it.
            until: When its time is over, on the clock; or what says so, where that changes.

        Raises:
            ChoralError: What the last one said.
        """
        tries = 0
        while True:
            try:
                return await call()
            except grpc.RpcError as error:
                found = from_rpc_error(error)
            except ChoralError as error:
                found = error
            pause = PAUSES_S[min(tries, len(PAUSES_S) - 1)]
            ends = until() if callable(until) else until
            if not found.retryable or self._clock.monotonic() + pause > ends:
                raise found
            if isinstance(found, Unavailable):
                self._line.turn()
            tries += 1
            await asyncio.sleep(pause)

    async def download(
        self, token: bytes, sha256: str, size: int, *, cache: ModelCache, until: float
    ) -> Path:
        """Return the file of a model; what came before a cut is not sent again."""
        found = cache.find(sha256)
        if found is not None:
            return found
        part = cache.part(sha256)
        limits = Limits(frozenset({Kind.MODEL}), size)

        async def once() -> None:
            if part.held() > size:
                part.discard()
            receiving = Receiving(limits, lambda header: part, without_crc=self._tls)
            request = pb.GetModelRequest(
                protocol_version=PROTOCOL_VERSION,
                token=token,
                sha256=sha256,
                offset=part.held(),
                without_crc=self._tls,
            )
            frames = aiter(self.stubs.get_global_model(request, metadata=self.metadata))
            async with Lane(receiving.receive) as lane:
                while (frame := await _next(frames)) is not None:
                    await lane.put(frame)
                await lane.drain()
            if receiving.finish().sha256 != sha256:
                part.discard()
                raise Refused("the coordinator sent another model than it named")

        await self.insist(once, until=until)
        return cache.complete(sha256)

    async def upload(
        self,
        token: bytes,
        path: Path,
        kind: Kind,
        *,
        until: float,
        sha256: str = "",
        without_crc: bool = False,
    ) -> Receipt:
        """Send a file; after a cut, go on where the coordinator has got to. Return its receipt.

        Args:
            token: Of the assignment.
            path: The file.
            kind: What it is.
            until: When its time is over, on the clock.
            sha256: Its digest, where that is known.
            without_crc: Whether the coordinator takes chunks without their checksum.
        """
        with _mapped(path) as view:
            blocks = Blocks([view])
            sha256 = sha256 or await asyncio.to_thread(blocks.sha256)
            crc = not (self._tls and without_crc)

            def frames(offset: int) -> Sending:
                header = Header(kind, token, sha256, blocks.size, offset=offset)
                return Sending(header, blocks, crc=crc)

            return await self._upload(token, sha256, frames, until)

    async def _upload(
        self, token: bytes, sha256: str, frames: Callable[[int], Sending], until: float
    ) -> Receipt:
        offset = 0
        first = True
        ends = until

        async def once() -> Receipt:
            nonlocal offset, first, ends
            if not first:
                status = await self.stubs.get_upload(
                    pb.UploadRequest(protocol_version=PROTOCOL_VERSION, token=token, sha256=sha256),
                    metadata=self.metadata,
                    timeout=CALL_S,
                )
                if status.complete:
                    return receipt_from_proto(status.receipt)
                if status.offset > offset:  # progress: the coordinator goes on taking it, too
                    ends = max(until, self._clock.monotonic() + STALL_S)
                offset = status.offset
            first = False
            moving = _Moving(self._clock)
            sent = moving.watched(ahead(iter(frames(offset))))
            ack = await moving.guard(self.stubs.send_update(sent, metadata=self.metadata))
            return receipt_from_proto(ack.receipt)

        return await self.insist(once, until=lambda: ends)

    async def fail(self, token: bytes, code: str, message: str, *, until: float) -> None:
        """Say that the work will not be done. That it is over already is no matter."""
        report = pb.FailureReport(
            protocol_version=PROTOCOL_VERSION, token=token, code=code, message=message[:500]
        )
        with suppress(Stale):
            await self.insist(
                lambda: self.stubs.report_failure(report, metadata=self.metadata, timeout=CALL_S),
                until=until,
            )

    async def report(self, evaluation: Evaluation, *, until: float) -> None:
        """Say what was measured."""
        message = evaluation_to_proto(evaluation)
        await self.insist(
            lambda: self.stubs.report_evaluation(message, metadata=self.metadata, timeout=CALL_S),
            until=until,
        )


def check_receipt(receipt: Receipt, *, server: bytes, expected: Receipt) -> None:
    """Refuse a receipt that is not the coordinator's for exactly this upload.

    Raises:
        Refused: It is not.
    """
    verify(server, receipt.stated(), receipt.signature)
    names = ("run_id", "round", "attempt", "client", "sha256", "size_bytes")
    for name in names:
        if getattr(receipt, name) != getattr(expected, name):
            raise Refused(f"a receipt for another {name}")


async def _next(frames: AsyncIterator[bytes]) -> bytes | None:
    """Return the next frame, None at the end; a stream that stalls is cut."""
    try:
        return await asyncio.wait_for(anext(frames), STALL_S)
    except StopAsyncIteration:
        return None
    except TimeoutError:
        raise Unavailable(f"the download brought nothing for {STALL_S:.0f} s") from None


class _Moving:
    """Notices that an upload does not move: of its frames none was taken, and no receipt came."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock.monotonic()

    async def watched(self, frames: AsyncIterator[T]) -> AsyncIterator[T]:
        async for frame in frames:
            self._last = self._clock.monotonic()
            yield frame

    async def guard(self, call: Awaitable[T]) -> T:
        """Return a call's answer.

        Raises:
            Unavailable: Nothing moved for `STALL_S`.
        """
        answer = asyncio.ensure_future(call)
        try:
            while (left := self._last + STALL_S - self._clock.monotonic()) > 0:
                done, _ = await asyncio.wait({answer}, timeout=left)
                if done:
                    return answer.result()
        finally:
            answer.cancel()
        raise Unavailable(f"the upload did not move for {STALL_S:.0f} s")


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    """Give a file's bytes without reading them into memory."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            yield memoryview(b"")
            return
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view = memoryview(mapped)
        try:
            yield view
        finally:
            with suppress(BufferError):  # a call that failed holds parts of it a little longer
                view.release()
                mapped.close()


def sha256_of(path: Path) -> str:
    """Return a file's digest, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
