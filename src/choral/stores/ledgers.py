"""Where the privacy ledgers of populations rest, and who has seen how long they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from choral.core.errors import ConfigError, StoreError
from choral.core.params import Spec
from choral.core.ports import Rand
from choral.federation.setup import RunSetup
from choral.federation.spending import Spending, Witness, spending_of
from choral.stores.folder import RESULT, RunFolder
from choral.stores.memory import MemoryLogStore

if TYPE_CHECKING:
    from choral.stores.sqlite import SqliteRunStore

LEDGER: Final = "ledger.db"
"""The database beside the folders of runs: all of their populations share it."""


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
    storage: Path | None, setup: RunSetup, spec: Spec, *, folder: RunFolder | None, rand: Rand
) -> Spending | None:
    """Return a run's part of a privacy ledger; None for a run without privacy.

    With a budget it is that of its population, beside the runs; else one of the run's own.

    Args:
        storage: Folder of the runs, or of one run where nothing else is known.
        setup: The run, after `protected`.
        spec: The model's schema.
        folder: The run's own; None keeps its own ledger in memory.
        rand: Secret randomness of the coordinator's noise.

    Raises:
        ConfigError: A budget over several runs, and no folder to keep its ledger in.
        Refused: The population has another limit, or is kept for another run.
        TamperedLedger: The ledger has been edited.
        RolledBackLedger: It is older than one of the runs has seen it.
    """
    wish = setup.privacy
    if wish is None:
        return None
    size = spec.vector_size
    if wish.budget is None:
        store = MemoryLogStore() if folder is None else folder.store
        return spending_of(setup, size, store=store, rand=rand)
    if storage is None:
        raise ConfigError(
            "privacy.budget holds over several runs, and this one keeps nothing",
            hint="`out=` keeps the run, and the ledger beside it",
        )
    witnesses = [Witness(**seen) for seen in seen_ledgers(storage)]
    store = ledger_store(storage / LEDGER)
    return spending_of(setup, size, store=store, rand=rand, witnesses=witnesses)


def seen_ledgers(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what completed runs in a folder have seen of ledgers: population, entries, head.

    A ledger that is shorter than one of them has seen it was rolled back.
    """
    for path in sorted(folder.glob(f"*/{RESULT}")):
        try:
            seen = json.loads(path.read_text(encoding="utf-8"))["privacy"]["ledger"]
            yield {
                "population": str(seen["population"]),
                "entries": int(seen["entries"]),
                "head": str(seen["head"]),
            }
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a run without a ledger, or no run
