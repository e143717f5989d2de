"""`choral ledger`: what has been released about a population, and what may still be."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from choral.core.errors import ConfigError, NothingToResume, RolledBackLedger
from choral.core.ports import LogStore
from choral.federation.spending import Witness
from choral.privacy.entries import LOGS, Head
from choral.privacy.ledger import PrivacyLedger
from choral.stores.audit import DATABASE as AUDIT
from choral.stores.ledgers import LEDGER, ledger_store, seen_in_trail, seen_ledgers

app = typer.Typer(help="Privacy budgets.", no_args_is_help=True, rich_markup_mode=None)

_Storage = Annotated[
    Path | None,
    typer.Option(
        "--storage",
        envvar="CHORAL_STORAGE_PATH",
        help="Folder of runs with `ledger.db`, that file, or `run.db` of a run; default `runs`.",
    ),
]
_Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        envvar="CHORAL_DATABASE",
        help="Database of the coordinators, where they have one: `storage.database`.",
    ),
]
_Population = Annotated[str | None, typer.Option(help="One population; default all.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@app.callback()
def _group() -> None:
    """Privacy budgets of populations."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where ledgers are.

    Attributes:
        name: What to call it, without a password.
        store: The ledgers.
        seen: Ledgers as runs and the audit trail beside them have seen them.
        expected: Populations whose ledgers must be here.
    """

    name: str
    store: LogStore
    seen: tuple[Witness, ...]
    expected: frozenset[str] = frozenset()


@app.command("show")
def show(
    population: _Population = None,
    storage: _Storage = None,
    database: _Database = None,
    as_json: _Json = False,
) -> None:
    """Show epsilon so far, what is left, and how many more rounds fit."""
    place = _place(storage, database)
    standings = [_standing(ledger) for ledger in _ledgers(place, population)]
    if as_json:
        print(json.dumps({"ledger": place.name, "populations": standings}))
        return
    for one in standings:
        _print(one)


@app.command("verify")
def verify(
    population: _Population = None,
    storage: _Storage = None,
    database: _Database = None,
    as_json: _Json = False,
) -> None:
    """Check every entry, and that no ledger is older than a run or the audit trail has seen it."""
    place = _place(storage, database)
    found: list[dict[str, Any]] = []
    for ledger in _ledgers(place, population):
        for witness in place.seen:
            if witness.population == ledger.population:
                ledger.check_witness(Head(witness.entries, witness.head))
        head = ledger.verify()
        found.append({"population": ledger.population, "entries": head.length, "head": head.digest})
    missing = place.expected - {one["population"] for one in found}
    if missing and population is None:
        raise RolledBackLedger(
            f"the ledger of `{min(missing)}` is gone: a run has seen it",
            hint="restore the newest copy of the database",
        )
    if as_json:
        print(json.dumps({"ledger": place.name, "verified": True, "populations": found}))
        return
    for one in found:
        print(f"{one['population']}: {one['entries']} entries, head {one['head'][:16]}, verified")


def _place(storage: Path | None, database: str | None) -> _Place:
    """Return where the ledgers are that are meant.

    Raises:
        NothingToResume: There are none.
        StoreError: They cannot be read.
    """
    where = storage or Path(os.environ.get("CHORAL_STORAGE_PATH") or "runs")
    if database is not None:
        from choral.stores.database import open_database  # takes half a second

        shared = open_database(database)
        audited = seen_in_trail(shared)
        seen = (*seen_ledgers(where), *audited)
        return _Place(shared.backend.name, shared, seen, _shared(audited))
    path = where if where.is_file() else where / LEDGER
    if not path.exists() and (where / "run.db").exists():
        path = where / "run.db"
    if not path.exists():
        raise NothingToResume(
            f"there is no privacy ledger {path}",
            hint="a run with `privacy: {budget: …}` makes it; `--storage DIR` says where, "
            "`--database URL` where coordinators share one",
        )
    trail = path.parent / AUDIT
    audited = seen_in_trail(ledger_store(trail)) if trail.exists() else []
    seen = (*seen_ledgers(path.parent), *audited)
    expected = _shared(seen) if path.name == LEDGER else frozenset()
    return _Place(str(path), ledger_store(path), seen, expected)


def _shared(seen: Iterable[Witness]) -> frozenset[str]:
    return frozenset(witness.population for witness in seen if witness.shared)


def _ledgers(place: _Place, population: str | None) -> list[PrivacyLedger]:
    """Return the ledgers of a place, every entry of them checked.

    Raises:
        ConfigError: It has none of that population.
        TamperedLedger: One has been edited.
    """
    names = [n.removeprefix(LOGS) for n in place.store.logs() if n.startswith(LOGS)]
    if population is not None and population not in names:
        known = ", ".join(names) or "none"
        raise ConfigError(f"{place.name} has no ledger of `{population}`", hint=f"it has: {known}")
    return [PrivacyLedger(place.store, n) for n in names if population in (None, n)]


def _standing(ledger: PrivacyLedger) -> dict[str, Any]:
    """Return where a population stands, as JSON."""
    found, head = ledger.standing(), ledger.head()
    runs = ledger.runs()
    last = runs[-1] if runs else None
    return {
        "population": ledger.population,
        **found.epsilon.as_json(),
        "limit": found.limit.epsilon,
        "left": found.left if math.isfinite(found.left) else None,
        "reserved": found.reserved,
        "spent": found.spent,
        "voided": found.voided,
        "kept_for": found.alone,
        "rounds_left": None if last is None else ledger.rounds_left(last.releases),
        "runs": [{"run": r.run, **ledger.epsilon(r.run).as_json()} for r in runs],
        "entries": head.length,
        "head": head.digest,
    }


def _print(one: dict[str, Any]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = {
        "population": one["population"],
        "epsilon": f"{one['epsilon']:.4g} of {one['limit']:g} at delta {one['delta']:g} "
        f"({one['unit']}, {one['relation']})",
        "left": f"{one['left']:.4g}"
        + (
            ""
            if one["rounds_left"] is None
            else f"; {one['rounds_left']} more rounds like the last run's fit"
        ),
        "releases": f"{one['spent']} spent, {one['reserved']} reserved, {one['voided']} voided",
    }
    if one["kept_for"]:
        rows["kept for"] = f"run {one['kept_for']} alone"
    for run in one["runs"]:
        rows[run["run"]] = f"epsilon {run['epsilon']:.4g}"
    for name, value in rows.items():
        table.add_row(name, value)
    Console(highlight=False, soft_wrap=True).print(table)
