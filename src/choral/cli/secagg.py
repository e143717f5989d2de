"""`choral secagg`: plan a secure aggregation before anybody is invited."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from choral.secagg.parameters import CORRUPT, DROPOUT, SIGMA_WITHOUT_BEACON, Parameters, find

app = typer.Typer(help="Plan a secure aggregation.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Plan a secure aggregation."""


@app.command("params")
def params(
    clients: Annotated[int, typer.Option(help="Invited clients.")],
    corrupt: Annotated[float, typer.Option(help="Fraction that may help the server.")] = CORRUPT,
    dropout: Annotated[float, typer.Option(help="Fraction that may be lost.")] = DROPOUT,
    semi_honest: Annotated[
        bool, typer.Option("--semi-honest", help="The server is curious but honest.")
    ] = False,
    no_beacon: Annotated[
        bool, typer.Option("--no-beacon", help="No public beacon seeds the graph.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Show the neighbours and the threshold that a cohort needs."""
    found = find(
        clients, corrupt=corrupt, dropout=dropout, semi_honest=semi_honest, beacon=not no_beacon
    )
    if as_json:
        print(json.dumps(found.as_json()))
        return
    table = Table(title=f"secure aggregation of {clients} clients", show_header=False)
    for name, value in rows(found):
        table.add_row(name, value)
    console = Console(highlight=False)
    console.print(table)
    if found.beacon:
        runs = find(clients, corrupt=corrupt, dropout=dropout)
        console.print(
            f"A run has no beacon today, and takes k {runs.k}, t {runs.t} "
            f"(2^-{runs.sigma}): --no-beacon."
        )


def rows(found: Parameters) -> list[tuple[str, str]]:
    """Return parameters as lines for people."""
    graph = "everybody" if found.complete else f"{found.k}, chosen at random"
    lines = [
        ("suite", str(found.suite)),
        ("threat model", f"{found.threat_model} server"),
        ("may help the server", f"{found.corrupt:.4g} of the clients"),
        ("may be lost", f"{found.dropout:.4g} of the clients"),
        ("neighbours of each (k)", graph),
        ("shares that unlock (t)", f"{found.t} of {found.k + 1}"),
        ("losses tolerated", str(found.tolerated_losses)),
        ("statistical security", "exact" if found.complete else f"2^-{found.sigma}"),
    ]
    if found.beacon:
        lines.append(
            ("seed of the graph", f"a public beacon; else --no-beacon: 2^-{SIGMA_WITHOUT_BEACON}")
        )
    return lines
