"""A folder of blobs. A file is there whole or not at all: written aside, synced, then renamed."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from choral.core.errors import CorruptBlob, StoreError

_DIGEST = re.compile(r"[0-9a-f]{64}")


def write_durably(path: Path, blocks: Iterable[bytes | memoryview]) -> None:
    """Write a file so that after any crash it is there whole, or as it was before."""
    with _aside(path.parent) as (aside, file):
        for block in blocks:
            file.write(block)
        _settle(file, aside, path)


@contextmanager
def _aside(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Give a new file that is removed again unless it was renamed."""
    aside = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        with open(aside, "xb", opener=_private) as file:
            yield aside, file
    finally:
        aside.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    """Open a file that its owner alone may read."""
    return os.open(path, flags, 0o600)


def _settle(file: BinaryIO, aside: Path, path: Path) -> None:
    """Sync a file, give it its name, and sync the name."""
    file.flush()
    os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class FolderBlobStore:
    """Blobs as files named by their digest.

    Args:
        folder: Made where it does not exist; files are readable by their owner alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, blocks: Iterable[bytes | memoryview]) -> str:
        """Store the concatenated blocks durably.

        Raises:
            StoreError: They cannot be written, such as on a full disk.
        """
        try:
            return self._put(blocks)
        except OSError as error:
            raise StoreError(
                f"cannot write to {self._folder}: {error.strerror}", hint="make room, then resume"
            ) from None

    def _put(self, blocks: Iterable[bytes | memoryview]) -> str:
        state = hashlib.sha256()
        with _aside(self._folder) as (aside, file):
            for block in blocks:
                state.update(block)
                file.write(block)
            digest = state.hexdigest()
            if not self.has(digest):
                _settle(file, aside, self._folder / digest)
        return digest

    def adopt(self, path: Path, digest: str) -> Path:
        """Take over a file of the same file system whose digest was checked; return its new path.

        Raises:
            StoreError: It cannot be made durable.
        """
        try:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.replace(self._path(digest))
            sync_folder(self._folder)
        except OSError as error:
            raise StoreError(
                f"cannot keep {path}: {error.strerror}", hint="make room, then resume"
            ) from None
        return self._path(digest)

    def path(self, digest: str) -> Path:
        """Return where the bytes are, or would be."""
        return self._path(digest)

    def get(self, digest: str) -> memoryview:
        """Return the bytes, checked against their digest."""
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise CorruptBlob(f"blob {digest[:12]}… is not in {self._folder}") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise CorruptBlob(f"blob {path} does not match its name")
        return memoryview(data)

    def has(self, digest: str) -> bool:
        """Return whether the bytes are there."""
        return self._path(digest).exists()

    def delete(self, digest: str) -> None:
        """Remove the bytes."""
        self._path(digest).unlink(missing_ok=True)

    def digests(self) -> Sequence[str]:
        """Return all digests, sorted."""
        return tuple(sorted(p.name for p in self._folder.iterdir() if _DIGEST.fullmatch(p.name)))

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise CorruptBlob(f"{digest!r} is not a digest")
        return self._folder / digest
