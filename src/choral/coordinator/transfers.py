"""Models on their way out, and uploads on their way in; threads do what costs time."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from choral.coordinator.leftovers import file_name
from choral.coordinator.spool import SpoolFile
from choral.coordinator.tickets import Ticket
from choral.core.errors import CorruptBlob, Stale, Truncated, Unavailable, WrongDigest
from choral.core.ports import Clock
from choral.wire.frames import (
    CHUNK_LEAST,
    MIB,
    Header,
    Kind,
    chunk_frame,
    end_frame,
    header_frame,
    read_frame,
)
from choral.wire.lane import Lane, ahead
from choral.wire.transfer import Limits, Receiving

WINDOW_S: Final = 40.0
WINDOW_BYTES: Final = 512 << 10
"""An upload brings at least so many bytes, or its last ones, in every `WINDOW_S`: 13 KiB/s."""

LARGE: Final = 8 * MIB
"""Bytes of a transfer that is worth a thread of its own."""

_SMALL: Final = 64 << 10
"""Bytes of a frame that are not worth a thread."""


async def model_frames(
    path: Path, header: Header, *, pool: ThreadPoolExecutor, crc: bool = True
) -> AsyncIterator[bytes]:
    """Yield the frames of a file, read piece by piece.

    Args:
        path: The file.
        header: What is said of it.
        pool: Threads for small files.
        crc: Whether chunks have a checksum.

    Raises:
        CorruptBlob: The file is shorter than announced.
        Stale: It is gone: its run went on.
    """
    loop = asyncio.get_running_loop()
    try:
        handle = await loop.run_in_executor(pool, os.open, path, os.O_RDONLY)
    except FileNotFoundError:
        raise Stale("this model is no longer given out") from None
    try:
        yield header_frame(header)
        chunks = _chunks(handle, header, crc)
        if header.size_bytes - header.offset < LARGE:
            while (chunk := await loop.run_in_executor(pool, next, chunks, None)) is not None:
                yield chunk
        else:
            async for chunk in ahead(chunks):
                yield chunk
        yield end_frame(header.sha256)
    finally:
        os.close(handle)


def _chunks(handle: int, header: Header, crc: bool) -> Iterator[bytes]:
    for start in range(header.offset, header.size_bytes, header.chunk_bytes):
        stop = min(start + header.chunk_bytes, header.size_bytes)
        yield chunk_frame(start, [_block(handle, start, stop)], crc=crc)


def _block(handle: int, start: int, stop: int) -> bytes:
    block = os.pread(handle, stop - start, start)
    if len(block) != stop - start:
        raise CorruptBlob(f"a model's file ends at byte {start + len(block)}, expected {stop}")
    return block


class _Pace:
    """Whether an upload comes fast enough, window by window.

    Args:
        clock: Time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock.monotonic()
        self._bytes = 0
        self._held: int | None = None

    async def next(self, frames: AsyncIterator[bytes]) -> bytes | None:
        """Return the next frame, None at the end.

        Raises:
            Unavailable: The window is over, and too little came in it.
        """
        left = max(0.0, self._start + WINDOW_S - self._clock.monotonic())
        try:
            return await asyncio.wait_for(anext(frames), left)
        except StopAsyncIteration:
            return None
        except TimeoutError:
            raise self._error() from None

    def note(self, ticket: Ticket) -> None:
        """Note how far an upload is; enough progress begins a new window.

        A round's deadline is renewed when an upload begins, and then by every `WINDOW_BYTES` beyond
        what was held before. So nobody holds a round open by dripping or by beginning anew.
        """
        if ticket.upload is None:
            return
        held, now = ticket.upload[0].held(), self._clock.monotonic()
        self._bytes += max(0, held - self._held) if self._held is not None else 0
        self._held = held
        first = ticket.moved == -math.inf
        if first or held >= ticket.moved_bytes + WINDOW_BYTES:
            ticket.moved, ticket.moved_bytes = now, held
        if self._bytes >= WINDOW_BYTES:
            self._start, self._bytes = now, 0

    def _error(self) -> Unavailable:
        """Return what a sender is told that is too slow."""
        return Unavailable(
            f"the upload brought {self._bytes} bytes in {WINDOW_S:.0f} s, expected at least "
            f"{WINDOW_BYTES}",
            hint="a faster line, or smaller chunks",
        )


@dataclass(frozen=True, slots=True)
class Uploads:
    """Takes uploads.

    Attributes:
        folder: Where their bytes go.
        clock: Time.
        pool: Threads for checksums and disk.
        without_crc: Whether chunks may come without their checksum.
    """

    folder: Path
    clock: Clock
    pool: ThreadPoolExecutor
    without_crc: bool = False

    async def take(
        self,
        frames: AsyncIterator[bytes],
        find: Callable[[bytes], Ticket],
        limit: Callable[[Ticket], Limits],
    ) -> Ticket:
        """Take the frames of one upload; return the ticket it belongs to, with `upload` whole.

        Args:
            frames: As they come.
            find: From a token to the caller's own open work.
            limit: What is taken for it.

        Raises:
            ChoralError: The upload is not what it should be, or too slow.
        """
        found: list[Ticket] = []
        stream = object()

        def open_sink(header: Header) -> SpoolFile:
            ticket = find(header.token)
            limit(ticket).check(header)
            found.append(ticket)
            ticket.stream = stream
            return spool_for(ticket, header, self.folder / file_name(header))

        sinks: list[SpoolFile] = []
        receiving = Receiving(_ANY, lambda _: sinks[0], without_crc=self.without_crc)
        pace, loop = _Pace(self.clock), asyncio.get_running_loop()
        iterator = aiter(frames)
        with _mended(sinks):
            async with Lane(receiving.receive) as lane:
                while (frame := await pace.next(iterator)) is not None:
                    if found and (found[0].stream is not stream or found[0].over):
                        raise Stale("the work is over, or another upload of it took its place")
                    if not found:
                        header = read_frame(frame)
                        if isinstance(header, Header):
                            sinks.append(open_sink(header))
                        # of an upload that goes on, the bytes that are there are read once more
                        await loop.run_in_executor(self.pool, receiving.receive, frame)
                    elif len(frame) < _SMALL:
                        await lane.drain()
                        receiving.receive(frame)
                    elif limit(found[0]).size_bytes < LARGE:
                        await loop.run_in_executor(self.pool, receiving.receive, frame)
                    else:
                        await lane.put(frame)
                    pace.note(found[0])
                await lane.drain()
        receiving.finish()
        return found[0]


def spool_for(ticket: Ticket, header: Header, path: Path) -> SpoolFile:
    """Return where an upload's bytes go: after the same one's that are there, or to `path`.

    Raises:
        Stale: The work has another upload, and that one counts.
    """
    if ticket.upload is not None:
        spool, before = ticket.upload
        same = (before.sha256, before.size_bytes, before.kind)
        if same == (header.sha256, header.size_bytes, header.kind):
            return spool
        if ticket.receipt is not None or ticket.done:
            raise Stale("another upload of the same work is here already")
        spool.close()
    spool = SpoolFile(path)
    ticket.upload = spool, header
    return spool


@contextmanager
def _mended(sinks: Sequence[SpoolFile]) -> Iterator[None]:
    """Let an upload begin anew that went on behind other bytes than were sent.

    Raises:
        Truncated: It did: a loss of power took some of them.
    """
    try:
        yield
    except WrongDigest:
        if not (sinks and sinks[0].old):
            raise
        sinks[0].old = False
        raise Truncated("what came before the coordinator's restart is not whole") from None


_ANY: Final = Limits(frozenset(Kind), size_bytes=2**63 - 1, chunk_least=1)
"""The header's real limits depend on its token, and are looked at when the sink is opened."""


def model_header(ticket: Ticket, *, offset: int) -> Header:
    """Return the header of a ticket's model from an offset on."""
    return Header(
        Kind.MODEL,
        ticket.token,
        ticket.model_sha256,
        ticket.model_bytes,
        offset=offset,
        chunk_bytes=CHUNK_LEAST,
    )
