"""`choral ledger`: what has been released about a population, and what may still be."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from choral.core.errors import ConfigError, NothingToResume, RolledBackLedger
from choral.privacy.entries import Head
from choral.privacy.ledger import PrivacyLedger
from choral.stores.ledgers import LEDGER, ledger_store, seen_ledgers

app = typer.Typer(help="Privacy budgets.", no_args_is_help=True, rich_markup_mode=None)

_PREFIX = "ledger/"

_Storage = Annotated[
    Path | None,
    typer.Option(
        "--storage",
        envvar="CHORAL_STORAGE_PATH",
        help="Folder of runs with `ledger.db`, that file, or `run.db` of a run; default `runs`.",
    ),
]
_Population = Annotated[str | None, typer.Option(help="One population; default all.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@app.callback()
def _group() -> None:
    """Privacy budgets of populations."""


@app.command("show")
def show(population: _Population = None, storage: _Storage = None, as_json: _Json = False) -> None:
    """Show epsilon so far, what is left, and how many more rounds fit."""
    path = _database(storage)
    standings = [_standing(ledger) for ledger in _ledgers(path, population)]
    if as_json:
        print(json.dumps({"ledger": str(path), "populations": standings}))
        return
    for one in standings:
        _print(one)


@app.command("verify")
def verify(
    population: _Population = None, storage: _Storage = None, as_json: _Json = False
) -> None:
    """Check every entry, and that no ledger is older than a run has seen it."""
    path = _database(storage)
    seen = list(seen_ledgers(path.parent))
    found: list[dict[str, Any]] = []
    for ledger in _ledgers(path, population):
        for witness in seen:
            if witness["population"] == ledger.population:
                ledger.check_witness(Head(witness["entries"], witness["head"]))
        head = ledger.verify()
        found.append({"population": ledger.population, "entries": head.length, "head": head.digest})
    missing = {w["population"] for w in seen} - {one["population"] for one in found}
    if missing and population is None and path.name == LEDGER:
        raise RolledBackLedger(
            f"the ledger of `{min(missing)}` is gone: a run has seen it",
            hint="restore the newest copy of the database",
        )
    if as_json:
        print(json.dumps({"ledger": str(path), "verified": True, "populations": found}))
        return
    for one in found:
        print(f"{one['population']}: {one['entries']} entries, head {one['head'][:16]}, verified")


def _database(storage: Path | None) -> Path:
    """Return the database that is meant.

    Raises:
        NothingToResume: There is none.
    """
    where = storage or Path(os.environ.get("CHORAL_STORAGE_PATH") or "runs")
    path = where if where.is_file() else where / LEDGER
    if not path.exists() and (where / "run.db").exists():
        path = where / "run.db"
    if not path.exists():
        raise NothingToResume(
            f"there is no privacy ledger {path}",
            hint="a run with `privacy: {budget: …}` makes it; `--storage DIR` says where",
        )
    return path


def _ledgers(path: Path, population: str | None) -> list[PrivacyLedger]:
    """Return the ledgers of a database, every entry of them checked.

    Raises:
        ConfigError: It has none of that population.
        TamperedLedger: One has been edited.
    """
    store = ledger_store(path)
    names = [n.removeprefix(_PREFIX) for n in store.logs() if n.startswith(_PREFIX)]
    if population is not None and population not in names:
        known = ", ".join(names) or "none"
        raise ConfigError(f"{path} has no ledger of `{population}`", hint=f"it has: {known}")
    return [PrivacyLedger(store, n) for n in names if population in (None, n)]


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
