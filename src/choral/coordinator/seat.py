"""The name of a coordinator, which it shares with those before it that are dead.

A coordinator that was killed holds its lease for some seconds still. The next one at the same
place need not wait: it holds the lock of the one before, so that one is no more, and the lease is
its own.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from choral.core.ports import Rand

FOLDER: Final = "seats"
"""Folder in the storage: a file for each coordinator that was ever there at one time."""
SEATS: Final = 64
TOKEN_BYTES: Final = 8


class Seat:
    """A name that no other living process has; it is free when this one ends, however it ends.

    The name holds the machine's name, a token and the file's number, so a copy of the storage has
    other names. Where files cannot be locked, the name is a new one each time.

    Args:
        storage: Folder of the runs.
        rand: For tokens.

    Attributes:
        owner: The name.
        folder: Name of a folder that is this process's own.
    """

    def __init__(self, storage: Path, *, rand: Rand) -> None:
        self._handle: int | None = None
        self.folder = rand.token(TOKEN_BYTES).hex()
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{self.folder}"
        with suppress(OSError):
            folder = storage / FOLDER
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sit(folder, rand)

    def _sit(self, folder: Path, rand: Rand) -> None:
        for number in range(SEATS):
            handle = os.open(folder / str(number), os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            except OSError:
                os.close(handle)
                return
            self._handle, self.folder = handle, str(number)
            token = os.pread(handle, 2 * TOKEN_BYTES, 0).decode("ascii", "replace")
            if len(token) < 2 * TOKEN_BYTES:  # a new file, or one that a crash has cut
                token = rand.token(TOKEN_BYTES).hex()
                os.pwrite(handle, token.encode(), 0)
            found = os.fstat(handle)
            self.owner = f"{socket.gethostname()}-{found.st_dev:x}-{found.st_ino:x}-{token}"
            return

    def leave(self) -> None:
        """Let another process have the name."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
