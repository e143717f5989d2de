"""Where the privacy ledgers of populations rest, and who has seen how long they were.

Populations outlive runs: their ledgers are in the database of a coordinator that has one, so that
whoever takes its runs over spends the same budget, and else in a file beside the folders of runs.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from choral.core.errors import ConfigError, Conflict, RolledBackLedger, StoreError, TamperedLedger
from choral.core.params import Spec
from choral.core.ports import LogStore, Rand
from choral.federation.audit import LOG as TRAIL
from choral.federation.events import ModelReleased
from choral.federation.setup import RunSetup
from choral.federation.spending import Spending, Witness, population_of, spending_of
from choral.privacy.entries import Head, log_of
from choral.privacy.ledger import PrivacyLedger
from choral.stores.folder import DATABASE, RESULT, RunFolder
from choral.stores.memory import MemoryLogStore

if TYPE_CHECKING:
    from choral.stores.sqlite import SqliteRunStore

LEDGER: Final = "ledger.db"
"""The database beside the folders of runs: all of their populations share it."""
AUDITED: Final = "round.released"
"""Kind of the entries of an audit trail that say how far a ledger had come."""


def ledger_store(path: Path) -> SqliteRunStore:
    """Open a database of ledgers; it is made where it is not there.

    Raises:
        StoreError: It cannot be used.
    """
    from choral.stores.sqlite import SqliteRunStore  # takes half a second

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
    return SqliteRunStore(path)


def spending_in(
    storage: Path | None,
    setup: RunSetup,
    spec: Spec,
    *,
    folder: RunFolder | None,
    rand: Rand,
    database: LogStore | None = None,
    seen: Iterable[Witness] = (),
) -> Spending | None:
    """Return a run's part of a privacy ledger; None for a run without privacy.

    With a budget it is that of its population, in the database or beside the runs; else one of the
    run's own.

    Args:
        storage: Folder of the runs, or of one run where nothing else is known.
        setup: The run, after `protected`.
        spec: The model's schema.
        folder: The run's own; None keeps its own ledger in memory.
        rand: Secret randomness of the coordinator's noise.
        database: Where several coordinators keep their runs; None for files in `storage`.
        seen: Ledgers as somebody else has seen them, such as an audit trail.

    Raises:
        ConfigError: A budget over several runs, and no folder to keep its ledger in.
        Refused: The population has another limit, or is kept for another run.
        TamperedLedger: The ledger has been edited.
        RolledBackLedger: It is older than somebody has seen it.
    """
    wish = setup.privacy
    if wish is None:
        return None
    size, store = spec.vector_size, database
    witnesses = list(seen)
    if wish.budget is None:
        store = MemoryLogStore() if folder is None else folder.store
        return spending_of(setup, size, store=store, rand=rand, witnesses=witnesses)
    if storage is None:
        raise ConfigError(
            "privacy.budget holds over several runs, and this one keeps nothing",
            hint="`out=` keeps the run, and the ledger beside it",
        )
    witnesses += seen_ledgers(storage)
    if store is None:
        store = ledger_store(storage / LEDGER)
    else:
        moved(storage / LEDGER, store, population_of(setup))
    return spending_of(setup, size, store=store, rand=rand, witnesses=witnesses)


def moved(file: Path, store: LogStore, population: str) -> None:
    """Take a population's ledger over from a file into a database that has none of it.

    Coordinators of versions before this one, and those without a database, leave it in the file.
    What is there was released, so a database that goes on without it would give it away twice.

    Raises:
        RolledBackLedger: The database has a ledger of its own that does not go on from the file's.
        TamperedLedger: One of them has been edited.
    """
    if not file.exists():
        return
    log = log_of(population)
    with closing(ledger_store(file)) as old:
        head = PrivacyLedger(old, population).head()
        records = old.read_log(log)
    if not head.length:
        return
    if not store.read_log(log):
        with suppress(Conflict):  # another process takes it over, too
            store.append_log(log, records, expect=0)
    try:
        PrivacyLedger(store, population).check_witness(Head(head.length, head.digest))
    except TamperedLedger as error:
        raise RolledBackLedger(
            f"the database has another ledger of `{population}` than {file}: {error.message}",
            hint="releases that are in one of them are missing in the other",
        ) from None


# --- witnesses ------------------------------------------------------------------------------------


def seen_ledgers(folder: Path) -> Iterator[Witness]:
    """Yield the ledgers that runs in a folder have seen.

    Completed ones say so in their results, others in their logs. A ledger that is shorter than one
    of them has seen it was rolled back.
    """
    for path in sorted(folder.glob(f"*/{RESULT}")):
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            yield _seen(body["privacy"]["ledger"], run=body["run_id"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a run without a ledger, or no run
    for path in sorted(folder.glob(f"*.partial/{DATABASE}")):
        yield from _seen_in_log(path)


def _seen_in_log(path: Path) -> Iterator[Witness]:
    """Yield the newest ledger that the log of an unfinished run tells of; nothing is changed."""
    newest = "SELECT run_id, body FROM events WHERE kind = ? ORDER BY seq DESC LIMIT 1"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            for run, body in db.execute(newest, [ModelReleased.__name__]):
                yield _seen(json.loads(body), run=run)
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return  # a run without a ledger, or one that just moves away


def seen_in_trail(store: LogStore) -> list[Witness]:
    """Return the newest ledger of each population that the audit trail in a store tells of."""
    newest: dict[str, Witness] = {}
    for record in store.read_log(TRAIL):
        if record.kind == AUDITED and record.body.get("population") is not None:
            found = _seen(record.body, run=record.body["run"])
            newest[found.population] = found
    return list(newest.values())


def _seen(body: Mapping[str, Any], *, run: str) -> Witness:
    return Witness(str(body["population"]), int(body["entries"]), str(body["head"]), str(run))
