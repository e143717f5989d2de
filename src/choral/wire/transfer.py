"""Both ends of a bulk transfer, as machines without input or output.

| phase | header | chunk | end |
|---|---|---|---|
| `AWAITING` | opens the sink: `RECEIVING` | | |
| `RECEIVING` | | the bytes that are due are written | `COMPLETE` if all are there |
| `COMPLETE` | | known bytes only | again |
| `FAILED` | | | |

What has no entry is refused, and any refusal leads to `FAILED`. A transfer that was cut goes on in
a new machine, from the bytes that the sink holds.
"""

from __future__ import annotations

import enum
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from choral.core.errors import (
    ChoralError,
    ConfigError,
    Malformed,
    OutOfOrder,
    TooLarge,
    Truncated,
    WrongDigest,
)
from choral.wire.frames import (
    CHUNK_LEAST,
    CHUNK_MOST,
    Chunk,
    End,
    Header,
    Kind,
    Part,
    chunk_frame,
    end_frame,
    header_frame,
    read_frame,
)


class Blocks:
    """Bytes that lie in several places, read as if they were one; nothing is copied.

    Args:
        blocks: Contiguous buffers in order, such as those of `core.tensors.encode_tensors`.
    """

    __slots__ = ("_starts", "_views", "size")

    def __init__(self, blocks: Iterable[Part]) -> None:
        views = (memoryview(block).cast("B") for block in blocks)
        self._views = [view for view in views if view.nbytes]
        self._starts: list[int] = []
        self.size = 0
        for view in self._views:
            self._starts.append(self.size)
            self.size += view.nbytes

    def parts(self, start: int, stop: int) -> list[memoryview]:
        """Return views that together are the bytes from `start` up to `stop`."""
        found = []
        at = bisect_right(self._starts, start) - 1
        while start < stop:
            first = self._starts[at]
            part = self._views[at][start - first : stop - first]
            found.append(part)
            start += part.nbytes
            at += 1
        return found

    def sha256(self) -> str:
        """Return the digest of all bytes, in hexadecimal."""
        state = hashlib.sha256()
        for view in self._views:
            state.update(view)
        return state.hexdigest()


@dataclass(frozen=True, slots=True)
class Sending:
    """The sending end: an iterable of frames.

    Args:
        header: What it says; for a resumed transfer, with the offset that the other end holds.
        blocks: The bytes, from the first.
        crc: Whether chunks have a checksum.

    Raises:
        ConfigError: They are not as many as the header says.
    """

    header: Header
    blocks: Blocks
    crc: bool = True

    def __post_init__(self) -> None:
        size, header = self.blocks.size, self.header
        if size != header.size_bytes or not 0 <= header.offset <= size or header.chunk_bytes < 1:
            raise ConfigError(f"{size} bytes to send under the header {header}")

    def __iter__(self) -> Iterator[bytes]:
        header = self.header
        yield header_frame(header)
        for start in range(header.offset, header.size_bytes, header.chunk_bytes):
            stop = min(start + header.chunk_bytes, header.size_bytes)
            yield chunk_frame(start, self.blocks.parts(start, stop), crc=self.crc)
        yield end_frame(header.sha256)


class Sink(Protocol):
    """Where the bytes of one transfer go. What it holds outlives the call that brought it."""

    def held(self) -> int:
        """Return the number of bytes held, from the first."""
        ...

    def prefix(self) -> Iterable[Part]:
        """Return the bytes held, in blocks."""
        ...

    def write(self, offset: int, data: memoryview) -> None:
        """Hold more bytes; `offset` is what `held` says, and later it says so many more."""
        ...

    def discard(self) -> None:
        """Let go of all bytes: they are not those that were announced."""
        ...


class MemorySink:
    """A sink in memory, for a receiver that has checked the size before.

    Args:
        size_bytes: Bytes that will come; the system gives memory as they do.
    """

    def __init__(self, size_bytes: int) -> None:
        self._bytes: npt.NDArray[np.uint8] = np.empty(size_bytes, np.uint8)
        self._held = 0

    def held(self) -> int:
        """Return the number of bytes held, from the first."""
        return self._held

    def prefix(self) -> Iterable[Part]:
        """Return the bytes held."""
        return (self.view(),)

    def write(self, offset: int, data: memoryview) -> None:
        """Hold more bytes."""
        stop = offset + data.nbytes
        self._bytes[offset:stop] = np.frombuffer(data, np.uint8)
        self._held = stop

    def discard(self) -> None:
        """Let go of all bytes."""
        self._held = 0

    def view(self) -> memoryview:
        """Return the bytes held, without a copy."""
        return self._bytes[: self._held].data


@dataclass(frozen=True, slots=True)
class Limits:
    """What a receiver takes.

    Attributes:
        kinds: Kinds that are expected on this call.
        size_bytes: Most bytes of a transfer.
        chunk_least: Smallest size of chunk that a sender may declare.
        chunk_most: Largest.
    """

    kinds: frozenset[Kind]
    size_bytes: int
    chunk_least: int = CHUNK_LEAST
    chunk_most: int = CHUNK_MOST

    def check(self, header: Header) -> None:
        """Refuse a header beyond them.

        Raises:
            Malformed: Another kind, or another size of chunk.
            TooLarge: Too many bytes.
        """
        if header.kind not in self.kinds:
            expected = ", ".join(sorted(kind.name.lower() for kind in self.kinds))
            raise Malformed(f"a transfer of a {header.kind.name.lower()}, expected: {expected}")
        if header.size_bytes > self.size_bytes:
            raise TooLarge(
                f"a transfer of {header.size_bytes} bytes, expected at most {self.size_bytes}"
            )
        if not self.chunk_least <= header.chunk_bytes <= self.chunk_most:
            raise Malformed(
                f"chunks of up to {header.chunk_bytes} bytes, expected "
                f"{self.chunk_least} to {self.chunk_most}"
            )


@dataclass(frozen=True, slots=True)
class Began:
    """The header was taken; so many bytes were held before."""

    header: Header
    held: int


@dataclass(frozen=True, slots=True)
class Progress:
    """New bytes were written; so many are held."""

    held: int


@dataclass(frozen=True, slots=True)
class Repeated:
    """A chunk had nothing new. It renews no deadline."""

    held: int


@dataclass(frozen=True, slots=True)
class Complete:
    """All bytes are held, and they are those that were announced."""

    header: Header


Event: TypeAlias = Began | Progress | Repeated | Complete


class Phase(enum.Enum):
    """Where a transfer stands at its receiver."""

    AWAITING = enum.auto()
    RECEIVING = enum.auto()
    COMPLETE = enum.auto()
    FAILED = enum.auto()


class Receiving:
    """The receiving end.

    Guarantees: whatever the split into chunks, and whatever is repeated, cut off and resumed, the
    sink gets each byte once and in order, never more than declared, and `Complete` is said only of
    bytes that have the declared digest.

    Args:
        limits: What is taken.
        open_sink: From a header within the limits to where its bytes go. It may refuse: that is the
            place to look at the token.
        without_crc: Whether chunks may come without their checksum: the line keeps them whole.
    """

    __slots__ = (
        "_error",
        "_hash",
        "_header",
        "_held",
        "_limits",
        "_open",
        "_sink",
        "_without_crc",
        "phase",
    )

    def __init__(
        self,
        limits: Limits,
        open_sink: Callable[[Header], Sink],
        *,
        without_crc: bool = False,
    ) -> None:
        self.phase = Phase.AWAITING
        self._without_crc = without_crc
        self._limits = limits
        self._open = open_sink
        self._hash = hashlib.sha256()
        self._held = 0
        self._header: Header
        self._sink: Sink
        self._error: Exception | None = None

    def receive(self, raw: bytes) -> Event:
        """Take one frame and say what it did.

        Raises:
            Malformed: No frame, a chunk of a wrong size, or a header beyond the limits.
            TooLarge: More bytes than allowed or declared.
            OutOfOrder: Bytes before these are missing, or the header is.
            CorruptChunk: A chunk does not match its checksum.
            Truncated: The end came before the last byte.
            WrongDigest: The bytes are others than declared; the sink has let go of them.
        """
        if self._error is not None:
            raise Malformed("a frame after the transfer has failed") from self._error
        try:
            frame = read_frame(raw, without_crc=self._without_crc)
            step = _TABLE.get((self.phase, type(frame)))
            if step is None:
                what = type(frame).__name__.lower()
                raise OutOfOrder(f"the frame `{what}` in the phase `{self.phase.name.lower()}`")
            return step(self, frame)
        except Exception as error:
            self.phase, self._error = Phase.FAILED, error
            raise

    def finish(self) -> Header:
        """Say that no frame will come, and return the header of the complete transfer.

        Raises:
            Truncated: It is not complete.
        """
        if isinstance(self._error, ChoralError):
            raise self._error
        if self.phase is not Phase.COMPLETE:
            raise Truncated(f"a transfer ended after {self._held} bytes, without its end")
        return self._header

    def _begin(self, header: Header) -> Event:
        self._limits.check(header)
        sink = self._open(header)
        held = sink.held()
        if held > header.size_bytes:
            raise Malformed(f"{header.size_bytes} bytes are declared, and {held} are held")
        if header.offset > held:
            raise OutOfOrder(f"a transfer from byte {header.offset}, expected {held}")
        for block in sink.prefix() if held else ():
            self._hash.update(block)
        self._header, self._sink, self._held = header, sink, held
        self.phase = Phase.RECEIVING
        return Began(header, held)

    def _chunk(self, chunk: Chunk) -> Event:
        header, size = self._header, chunk.data.nbytes
        if not 0 < size <= header.chunk_bytes:
            raise Malformed(f"a chunk of {size} bytes, expected 1 to {header.chunk_bytes}")
        if chunk.offset + size > header.size_bytes:
            raise TooLarge(
                f"a chunk up to byte {chunk.offset + size}, expected at most {header.size_bytes}"
            )
        if chunk.offset > self._held:
            raise OutOfOrder(f"a chunk from byte {chunk.offset}, expected {self._held}")
        new = chunk.data[self._held - chunk.offset :]
        if not new.nbytes:
            return Repeated(self._held)
        self._sink.write(self._held, new)
        self._hash.update(new)
        self._held += new.nbytes
        return Progress(self._held)

    def _end(self, end: End) -> Event:
        header = self._header
        if self._held < header.size_bytes:
            raise Truncated(
                f"a transfer ended after {self._held} bytes, expected {header.size_bytes}"
            )
        found = self._hash.hexdigest()
        if found != header.sha256:
            self._sink.discard()
            raise WrongDigest(f"bytes with the SHA-256 {found}, expected {header.sha256}")
        if end.sha256 != header.sha256:
            raise WrongDigest(f"an end for {end.sha256[:80]!r}, expected {header.sha256}")
        self.phase = Phase.COMPLETE
        return Complete(header)


_TABLE: Final[dict[tuple[Phase, type[Any]], Callable[[Receiving, Any], Event]]] = {
    (Phase.AWAITING, Header): Receiving._begin,
    (Phase.RECEIVING, Chunk): Receiving._chunk,
    (Phase.RECEIVING, End): Receiving._end,
    (Phase.COMPLETE, Chunk): Receiving._chunk,
    (Phase.COMPLETE, End): Receiving._end,
}
