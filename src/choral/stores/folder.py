"""The folder of a run. Until the run has completed it is called `NAME.partial`.

```
NAME/result.json          the run, as `--json` prints it
NAME/model.safetensors    the model; its SHA-256 is `model_sha256`
NAME/model.json           where the model comes from
NAME/run.db               the log of the run's events
NAME/blobs/               states of the last rounds
```
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from choral.core.canonical import canonical_json, digest_of
from choral.core.errors import NothingToResume, ResumeMismatch, RunExists, StoreError
from choral.core.failpoints import reach
from choral.core.params import Params
from choral.core.ports import BlobStore, Lease
from choral.core.release import Released
from choral.core.tensors import encode_tensors
from choral.stores.files import FolderBlobStore, sync_folder, write_durably

if TYPE_CHECKING:
    from choral.stores.database import Database
    from choral.stores.sqlite import SqliteRunStore

RESULT = "result.json"
MODEL = "model.safetensors"
LINEAGE = "model.json"
DATABASE = "run.db"
BLOBS = "blobs"
LOCK = "run.lock"


class RunFolder:
    """One run's folder.

    Args:
        path: Where the completed run will be.
        store: A database that holds many runs; None for one in the folder. Whoever shares it sees
            to it that one process alone drives a run.
        blobs: Where states are; None for the folder.
    """

    def __init__(
        self, path: Path, *, store: Database | None = None, blobs: BlobStore | None = None
    ) -> None:
        if not path.name:
            raise StoreError(f"{path} cannot be the folder of a run", hint="such as `--out runs/a`")
        path = path.absolute()  # a task may change the working folder
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self._shared = store
        self._blobs = blobs
        self._store: SqliteRunStore | None = None
        self._held: int | None = None

    def blobs(self) -> BlobStore:
        """Return the run's blobs; their folder is made where it is not there."""
        return FolderBlobStore(self.partial / BLOBS) if self._blobs is None else self._blobs

    @property
    def store(self) -> Database:
        """The run's log."""
        if self._shared is not None:
            return self._shared
        if self._store is None:
            from choral.stores.sqlite import SqliteRunStore  # takes half a second

            self._store = SqliteRunStore(self.partial / DATABASE)
        return self._store

    def create(self, run_id: str, header: dict[str, Any]) -> Lease:
        """Make the folder of a new run.

        Raises:
            RunExists: A run is there already, complete or not; nothing was changed.
            StoreError: The folder cannot be made.
        """
        canonical_json(header)  # what cannot be stored is refused before anything is made
        try:
            self._make()
        except OSError as error:
            raise StoreError(
                f"cannot make {self.partial}: {error.strerror}", hint="choose another `--out`"
            ) from None
        self._lock()
        self.store.create(run_id, header)
        return self.store.acquire(run_id)

    def _make(self) -> None:
        """Make the folder, where no run is there yet."""
        if os.path.lexists(self.path):
            raise RunExists(
                f"{self.path} exists already", hint="choose another `--out`, or remove it"
            )
        if self._holds_a_run():
            raise RunExists(
                f"{self.partial} holds an unfinished run",
                hint="go on with it by `--resume`, or remove it",
            )
        # The model and the log are derived from clients' data: for their owner alone.
        self.partial.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _holds_a_run(self) -> bool:
        """Return whether an unfinished run is there; a crash before its first row left none."""
        if self._shared is not None:
            return self.path.name in self._shared.runs()
        if not (self.partial / DATABASE).exists():
            return False
        try:
            return bool(self.store.runs())
        finally:
            self._close_store()

    def _lock(self) -> None:
        """Hold the folder for as long as this process lives.

        Raises:
            StoreError: Another process runs it now.
        """
        if self._shared is not None:
            return
        handle = os.open(self.partial / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise StoreError(
                f"{self.partial} is run by another process", hint="wait for it, or stop it first"
            ) from None
        self._held = handle

    def header(self) -> tuple[str, dict[str, Any]]:
        """Return id and header of the unfinished run.

        Raises:
            NothingToResume: There is none.
        """
        if self._shared is not None:
            return self.path.name, self._shared.header(self.path.name)
        if not (self.partial / DATABASE).exists():
            done = (self.path / RESULT).exists()
            raise NothingToResume(
                f"{self.path} holds {'a completed' if done else 'no'} run",
                hint="start it without `--resume`" if not done else "its result is in result.json",
            )
        runs = self.store.runs()
        if not runs:
            raise NothingToResume(f"{self.partial} holds no run", hint="remove it and start again")
        return runs[0], self.store.header(runs[0])

    def resume(self, config: Mapping[str, Any]) -> Lease:
        """Take the unfinished run over.

        Raises:
            NothingToResume: There is none.
            ResumeMismatch: It was started with another configuration; nothing was changed.
        """
        run_id, header = self.header()
        self._lock()
        differing = differences(header["config"], config)
        if differing:
            raise ResumeMismatch(
                f"{self.partial} was started with another configuration: " + "; ".join(differing),
                hint="give the configuration it was started with, or another `--out`",
            )
        return self.store.acquire(run_id)

    def complete(
        self, result: dict[str, Any], model: Released[Params], lineage: dict[str, Any]
    ) -> Path:
        """Write the results and give the folder its name; return the model's path."""
        self.partial.mkdir(mode=0o700, parents=True, exist_ok=True)  # begun on another machine
        write_durably(self.partial / MODEL, encode_tensors(model.value))
        write_durably(self.partial / LINEAGE, [_pretty(lineage)])
        reach("run.model.written")
        path = self.path / MODEL
        write_durably(self.partial / RESULT, [_pretty(result | {"model_path": str(path)})])
        reach("run.result.written")
        self._close_store()
        for leftover in (*self.partial.glob(".*.tmp"), *(self.partial / BLOBS).glob(".*.tmp")):
            leftover.unlink()
        self.partial.replace(self.path)
        (self.path / LOCK).unlink(missing_ok=True)
        sync_folder(self.path.parent)
        self.close()
        return path

    def discard(self) -> None:
        """Remove what a run that never committed a round has left, and nothing else.

        The lock goes last: until then nobody can have begun a run there.
        """
        self._close_store()
        ours = (DATABASE, DATABASE + "-wal", DATABASE + "-shm", RESULT, MODEL, LINEAGE, LOCK)
        for file in (*(self.partial / BLOBS).glob("*"), *(self.partial / name for name in ours)):
            file.unlink(missing_ok=True)
        for folder in (self.partial / BLOBS, self.partial):
            with suppress(OSError):  # it is not there, or holds what is not ours
                folder.rmdir()
        self.close()

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def close(self) -> None:
        """Let go of the database and of the folder."""
        self._close_store()
        if self._held is not None:
            os.close(self._held)
            self._held = None


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    """Return the keys by which two configurations differ, with both values.

    >>> differences({"rounds": 3, "local": {"lr": 1}}, {"rounds": 3, "local": {"lr": 2}})
    ['local.lr was 1 and is 2']
    """
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, prefix=f"{prefix}{key}.")
        elif digest_of(a) != digest_of(b):
            found.append(f"{prefix}{key} was {json.dumps(a)} and is {json.dumps(b)}")
    return found


def _pretty(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
