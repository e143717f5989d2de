"""The process that trains, seen from its parent: started by spawn, ended when its time is over."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from choral.client.settings import Local
from choral.client.work import Answer, Request, serve
from choral.core.errors import WorkerLost

_END_S = 2.0


class Trainer:
    """Runs one request after the other in a child process, which stays between them.

    The child leads a process group of its own, so that what a task starts ends with it.

    Args:
        local: The client's data, for the child.
    """

    def __init__(self, local: Local) -> None:
        self._local = local
        self._child: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._busy = asyncio.Lock()

    async def ask(self, request: Request) -> Answer:
        """Return the child's answer.

        A call that is cancelled ends the child: there is no other way to end somebody's code.

        Raises:
            WorkerLost: The child died. The next request starts another one.
        """
        async with self._busy:
            try:
                pipe = self._started()
                pipe.send(request)
                await _readable(pipe)
                answer: Answer = pipe.recv()
            except (EOFError, OSError):
                raise self._lost() from None
            except BaseException:
                self.end()
                raise
        return answer

    def _lost(self) -> WorkerLost:
        child = self._child
        if child is not None:
            child.join(_END_S)
        code = None if child is None else child.exitcode
        self.end()
        return WorkerLost(
            f"the process that trains ended (exit code {code})",
            hint="out of memory, or killed; it is started again for the next round",
        )

    def _started(self) -> Connection:
        if self._pipe is not None and self._child is not None and self._child.is_alive():
            return self._pipe
        self.end()
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        child = spawn.Process(target=serve, args=(theirs, self._local), name="choral-trainer")
        child.start()
        theirs.close()
        self._child, self._pipe = child, ours
        return ours

    @property
    def pid(self) -> int | None:
        """The child's process id, None where there is none."""
        return None if self._child is None else self._child.pid

    def end(self) -> None:
        """End the child and what it has started, if there is one."""
        child, pipe = self._child, self._pipe
        self._child = self._pipe = None
        if child is not None and child.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.kill()  # it leads no group yet where it has only just begun
            child.join(_END_S)
        if pipe is not None:
            pipe.close()


async def _readable(pipe: Connection) -> None:
    """Return when there is something to read, or the other end is gone."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(pipe.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(pipe.fileno())
