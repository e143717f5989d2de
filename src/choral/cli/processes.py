"""Processes of this program that a command starts, hears of and ends."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from choral.core.errors import RunFailed

END_S: Final = 8.0

Line = tuple[str, dict[str, Any] | None]
"""Name of a process, and a line of its log; None once it has ended."""


class Process:
    """`choral COMMAND` in a process and a session of its own; its log is JSON lines.

    Args:
        name: What it is called.
        command: The command's words.
        folder: Its working folder.
        lines: Where the lines of its log go.
        environment: Variables that it has besides this process's own.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        folder: Path,
        lines: queue.SimpleQueue[Line],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._lines = lines
        self._tail: list[str] = []
        self._out = (folder / f".{name}.out").open("w+b")
        self._child = subprocess.Popen(  # noqa: S603  # our own program
            [sys.executable, "-m", "choral", *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._child.stderr or ():
            self._tail = [*self._tail[-30:], line.rstrip()]
            with suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    self._lines.put((self.name, found))
        self._lines.put((self.name, None))

    @property
    def code(self) -> int | None:
        """Its exit code, None while it lives."""
        return self._child.poll()

    def wait(self, timeout_s: float) -> int:
        """Return its exit code.

        Raises:
            RunFailed: It has not ended in that time.
        """
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"{self.name} has not ended after {timeout_s:.0f} s") from None

    def printed(self) -> bytes:
        """Return what it wrote to stdout."""
        self._out.seek(0)
        return self._out.read()

    def last_words(self) -> str:
        """Return the end of its log as it wrote it."""
        self._reader.join(END_S)
        return "\n".join(self._tail)


def end(processes: Sequence[Process]) -> None:
    """End processes and what they have started: by SIGTERM, and by SIGKILL who does not hear it."""
    alive = [p for p in processes if p.code is None]
    for process in alive:
        _signal(process, signal.SIGTERM)
    for process in alive:
        with suppress(RunFailed):
            process.wait(END_S)
    for process in processes:
        _signal(process, signal.SIGKILL)  # its session, in which a child of its may be left
        with suppress(RunFailed):
            process.wait(END_S)
        process._out.close()


def _signal(process: Process, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if number == signal.SIGKILL:
            os.killpg(process._child.pid, number)
        else:
            process._child.send_signal(number)
