"""Uploads that are whole: kept under their digest until the round that needs them has ended."""

from __future__ import annotations

import threading
from pathlib import Path

from choral.coordinator.spool import SpoolFile
from choral.core.errors import CorruptBlob
from choral.core.failpoints import reach
from choral.core.ports import BlobStore
from choral.stores.files import FolderBlobStore


class Kept:
    """The whole uploads of one run.

    Args:
        blobs: Where they are kept.
        folder: Where one is read from that `blobs` does not have as a file.
    """

    def __init__(self, blobs: BlobStore, folder: Path) -> None:
        self._blobs = blobs
        self._folder = folder
        self._lock = threading.Lock()
        self._here: set[str] = set()

    def keep(self, upload: SpoolFile, sha256: str) -> None:
        """Make an upload durable whose digest was checked; from any thread.

        Raises:
            StoreError: It cannot be stored now.
        """
        reach("coordinator.upload.whole")
        self._note(sha256)  # also where it comes to be stored in part
        blobs = self._blobs
        if isinstance(blobs, FolderBlobStore):
            upload.move(lambda path: blobs.adopt(path, sha256))
        else:
            blobs.put(upload.blocks(0, upload.held()))
        self._note(sha256)  # once more: another attempt may have begun meanwhile
        reach("coordinator.upload.kept")

    def _note(self, sha256: str) -> None:
        with self._lock:
            self._here.add(sha256)

    def find(self, sha256: str, size: int) -> SpoolFile | None:
        """Return a kept upload, None where it is not there or not whole any more."""
        if isinstance(self._blobs, FolderBlobStore):
            path = self._blobs.path(sha256)
            if not path.is_file() or path.stat().st_size != size:
                return None
        else:
            path = self._folder / f"{sha256}.upload"
            try:
                path.write_bytes(self._blobs.get(sha256))
            except CorruptBlob:
                return None
        self._note(sha256)
        return SpoolFile.of(path, size)

    def drop(self) -> None:
        """Let go of everything: the attempt that it belonged to has ended."""
        with self._lock:
            gone, self._here = self._here, set()
        for sha256 in gone:
            self._blobs.delete(sha256)
            (self._folder / f"{sha256}.upload").unlink(missing_ok=True)
