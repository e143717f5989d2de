"""A thread beside the event loop that works through one transfer's frames, in order.

The loop goes on receiving or sending while it does: checksums, digests and disk release the
interpreter's lock. A few frames at most wait in between, so memory stays small.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, TypeVar

DEPTH: Final = 4
"""Frames between the loop and the thread."""

T = TypeVar("T")


class Lane:
    """Feeds frames to a function, one after the other, on a thread of its own.

    Args:
        work: Takes a frame; what it raises comes out of a later `put`, or of `drain`.
    """

    def __init__(self, work: Callable[[bytes], object]) -> None:
        self._work = work
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[asyncio.Future[object]] = deque()

    async def __aenter__(self) -> Lane:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # what came whole is kept: a transfer that was cut goes on behind it
        await asyncio.gather(*self._pending, return_exceptions=True)
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    async def put(self, frame: bytes) -> None:
        """Hand a frame over; wait where too many wait already."""
        while len(self._pending) >= DEPTH or (self._pending and self._pending[0].done()):
            await self._pending.popleft()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="choral-lane")
        loop = asyncio.get_running_loop()
        self._pending.append(loop.run_in_executor(self._thread, self._work, frame))

    async def drain(self) -> None:
        """Wait until everything is done."""
        while self._pending:
            await self._pending.popleft()


def _seen(future: asyncio.Future[Any]) -> None:
    """Look at an error, so that nobody is told that it was never looked at."""
    if not future.cancelled():
        future.exception()


async def ahead(frames: Iterator[T]) -> AsyncIterator[T]:
    """Yield what an iterator gives, made on a thread, one or two frames before it is wanted."""
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, thread_name_prefix="choral-lane")
    end: Any = object()
    waiting = deque(loop.run_in_executor(thread, next, frames, end) for _ in range(2))
    try:
        while (frame := await waiting.popleft()) is not end:
            waiting.append(loop.run_in_executor(thread, next, frames, end))
            yield frame
    finally:
        for future in waiting:
            future.add_done_callback(_seen)
        thread.shutdown(wait=False)
