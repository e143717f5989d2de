"""Uploads that were on their way when the process before this one ended."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Final

from choral.coordinator.spool import SpoolFile
from choral.wire.frames import Header, Kind

SUFFIX: Final = ".upload"
_NAME: Final = re.compile(r"([0-9a-f]+)-([0-9]+)-([0-9]+)-([0-9a-f]{64})\.upload")

Upload = tuple[SpoolFile, Header]
"""The bytes that came so far, with what was declared of them."""


def file_name(header: Header) -> str:
    """Return the name of an upload's file: it says all that its header said."""
    return f"{header.token.hex()}-{int(header.kind)}-{header.size_bytes}-{header.sha256}{SUFFIX}"


class Leftovers:
    """Files of uploads that nobody has asked for again.

    A token follows from its work, so a run that goes on with an attempt gives its clients the same
    ones, and finds here what they had sent.

    Args:
        folder: Of all uploads.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._found: dict[bytes, Upload] = {}

    def look(self) -> None:
        """Find what there is; remove what is no upload."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            upload = _read(path)
            if upload is None:
                path.unlink(missing_ok=True)
                continue
            with self._lock:
                other = self._found.get(upload[1].token)
                self._found[upload[1].token] = upload
            if other is not None:
                other[0].close()

    def take(self, token: bytes) -> Upload | None:
        """Return what came of the work that a token names, to whom it belongs from now on."""
        with self._lock:
            return self._found.pop(token, None)

    def clear(self) -> None:
        """Remove what nobody has taken."""
        with self._lock:
            left, self._found = list(self._found.values()), {}
        for spool, _ in left:
            spool.close()


def _read(path: Path) -> Upload | None:
    """Return the upload that a file holds, None where it is none."""
    name = _NAME.fullmatch(path.name)
    if name is None or len(name[1]) % 2 or int(name[2]) not in {int(kind) for kind in Kind}:
        return None
    size = int(name[3])
    if not 0 < path.stat().st_size <= size:
        return None
    header = Header(Kind(int(name[2])), bytes.fromhex(name[1]), name[4], size)
    return SpoolFile.left(path), header
