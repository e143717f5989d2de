"""Models that were downloaded, by their digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from choral.core.errors import StoreError

_BLOCK: Final = 1 << 20


class PartFile:
    """A download on its way: a `wire.transfer.Sink` whose bytes outlive a cut, and this process.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = path.stat().st_size if path.exists() else 0

    def held(self) -> int:
        """Return the number of bytes held, from the first."""
        return self._held

    def prefix(self) -> Iterable[bytes]:
        """Return the bytes held, in blocks."""
        with self._path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block

    def write(self, offset: int, data: memoryview) -> None:
        """Hold more bytes."""
        try:
            mode = "r+b" if self._held else "wb"
            with open(self._path, mode, buffering=0, opener=_private) as file:
                file.seek(offset)
                file.write(data)
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror}") from None
        self._held = offset + data.nbytes

    def discard(self) -> None:
        """Let go of all bytes."""
        self._path.unlink(missing_ok=True)
        self._held = 0


def _private(path: str, flags: int) -> int:
    """Open a file that its owner alone may read."""
    return os.open(path, flags, 0o600)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ModelCache:
    """Files of models; the ones that were used last stay.

    What an earlier process left is believed once its digest has been looked at.

    Args:
        folder: Where they are.
        limit: Bytes of them that stay.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._seen: set[str] = set()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def find(self, sha256: str) -> Path | None:
        """Return the file of a model that is here whole; it counts as used."""
        path = self._folder / sha256
        if not path.is_file():
            return None
        if sha256 not in self._seen and _digest(path) != sha256:
            path.unlink()  # a crash of the machine took a part of it
            return None
        self._seen.add(sha256)
        os.utime(path)
        return path

    def part(self, sha256: str) -> PartFile:
        """Return where a model's bytes go; after those that came before a cut."""
        return PartFile(self._folder / f"{sha256}.part")

    def complete(self, sha256: str) -> Path:
        """Take a download for whole; return its file. Those not used for longest make room."""
        path = self._folder / sha256
        os.replace(self._folder / f"{sha256}.part", path)
        self._seen.add(sha256)
        held = sorted(
            (p for p in self._folder.iterdir() if p != path), key=lambda p: p.stat().st_mtime
        )
        room = self._limit - path.stat().st_size - sum(p.stat().st_size for p in held)
        for old in held:
            if room >= 0:
                break
            room += old.stat().st_size
            old.unlink()
        return path
