"""Where a coordinator keeps its runs: each in a folder of its own, or all in one database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from choral.core.canonical import canonical_json
from choral.core.errors import ChoralError, Conflict
from choral.core.ports import Record
from choral.stores.blobs import open_blobs
from choral.stores.database import Database, open_database
from choral.stores.files import FolderBlobStore, write_durably
from choral.stores.folder import RunFolder

ENDINGS: Final = "endings"
"""Log of the runs in a database that have ended."""
SUBMISSIONS: Final = "submissions"
"""Log of the runs in a database that were accepted."""
SUBMISSION: Final = "submission.json"
INTERNAL: Final = "_"
"""How names begin that are no runs."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run in a database ended.

    Attributes:
        run_id: The run.
        status: completed or stopped.
        reason: Why; empty where there is nothing to say.
        federation: Its file.
    """

    run_id: str
    status: str
    reason: str
    federation: Mapping[str, Any]


class Archive:
    """The runs of one coordinator, or of several on one database.

    Args:
        root: Folder of models and results; of everything where there is no database.
        database: URL of the database, None for a database in each run's own folder.
        blobs: Where states and uploads are, such as `s3://bucket/prefix`; None for `root`.

    Attributes:
        root: The folder.
        database: The database, None where each run has its own.

    Raises:
        ConfigError: A URL names nothing.
        StoreError: The database cannot be used.
    """

    def __init__(
        self, root: Path, *, database: str | None = None, blobs: str | None = None
    ) -> None:
        self.root = root
        self.database: Database | None = None if database is None else open_database(database)
        self._blobs = blobs
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def folder(self, run_id: str) -> RunFolder:
        """Return a run's folder."""
        blobs = None
        if self._blobs is not None:
            place, question, query = self._blobs.partition("?")
            blobs = open_blobs(f"{place.rstrip('/')}/{run_id}{question}{query}")
        return RunFolder(self.root / run_id, store=self.database, blobs=blobs)

    def downloads(self, run_id: str) -> FolderBlobStore:
        """Return where the models of a run are that clients download: files of this machine."""
        return FolderBlobStore(self.folder(run_id).partial / "blobs")

    # --- submissions ------------------------------------------------------------------------------

    def submitted(self, run_id: str, header: dict[str, Any]) -> None:
        """Note a run that waits for its clients, before anybody is told that it is accepted."""
        if self.database is None:
            folder = self.folder(run_id).partial
            folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            write_durably(folder / SUBMISSION, [canonical_json(header)])
            return
        while True:
            known = self.database.read_log(SUBMISSIONS)
            body = {"run": run_id, "header": header}
            try:
                self.database.append_log(SUBMISSIONS, [Record("Run", body)], expect=len(known))
            except Conflict:
                continue
            return

    def begun(self, run_id: str) -> None:
        """Note that a run has a log of its own now."""
        (self.folder(run_id).partial / SUBMISSION).unlink(missing_ok=True)

    def withdrawn(self, ending: Ending) -> None:
        """Note that a run was stopped before it had begun."""
        folder = self.folder(ending.run_id).partial
        (folder / SUBMISSION).unlink(missing_ok=True)
        with suppress(OSError):  # it is not there, or holds what is not ours
            folder.rmdir()
        self.ended(ending)

    def _submissions(self) -> dict[str, dict[str, Any]]:
        if self.database is not None:
            bodies = [record.body for record in self.database.read_log(SUBMISSIONS)]
            return {body["run"]: body["header"] for body in bodies}
        found = {}
        for path in self.root.glob(f"*.partial/{SUBMISSION}"):
            with suppress(ValueError, OSError):
                found[path.parent.name.removesuffix(".partial")] = json.loads(path.read_bytes())
        return found

    # --- unfinished runs --------------------------------------------------------------------------

    def unfinished(self) -> list[tuple[str, dict[str, Any]]]:
        """Return id and header of every run that has not ended, oldest first."""
        if self.database is None:
            found = self._in_folders()
        else:
            gone = {ending.run_id for ending in self.endings()}
            names = [r for r in self.database.runs() if not r.startswith(INTERNAL)]
            found = [(r, self.database.header(r)) for r in names if r not in gone]
        begun = {run_id for run_id, _ in found} | {e.run_id for e in self.endings()}
        waiting = self._submissions()
        found += [(r, h | {"waits": True}) for r, h in waiting.items() if r not in begun]
        ours = [(run_id, header) for run_id, header in found if "federation" in header]
        return sorted(ours, key=lambda pair: float(pair[1].get("created", 0.0)))

    def _in_folders(self) -> list[tuple[str, dict[str, Any]]]:
        found = []
        for path in sorted(self.root.glob("*.partial")):
            folder = RunFolder(path.with_name(path.name.removesuffix(".partial")))
            try:
                found.append(folder.header())
            except ChoralError:
                continue
            finally:
                folder.close()
        return found

    def ended(self, ending: Ending) -> None:
        """Note that a run has ended, so that nobody goes on with it."""
        if self.database is None:
            return  # its folder says so by its name
        body = {
            "run": ending.run_id,
            "status": ending.status,
            "reason": ending.reason,
            "federation": dict(ending.federation),
        }
        while True:
            known = self.database.read_log(ENDINGS)
            if any(record.body["run"] == ending.run_id for record in known):
                return
            try:
                self.database.append_log(ENDINGS, [Record("Ended", body)], expect=len(known))
            except Conflict:
                continue
            return

    def endings(self, *, start: int = 0) -> list[Ending]:
        """Return how the runs in the database ended, oldest first, from number `start` on."""
        if self.database is None:
            return []
        bodies = [record.body for record in self.database.read_log(ENDINGS, start=start)]
        return [Ending(b["run"], b["status"], b["reason"], b["federation"]) for b in bodies]

    def close(self) -> None:
        """Let go of the database."""
        if self.database is not None:
            self.database.close()
