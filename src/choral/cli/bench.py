"""`choral bench`: how fast, against the same work written by hand."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from choral.bench.simulate import bench_simulate
from choral.core.errors import NotBuilt, UnknownName, did_you_mean

BENCHES = {"simulate": bench_simulate}
UNBUILT = ("aggregate", "compress", "privacy", "robust", "round", "scale", "secagg", "transfer")


def command(
    name: Annotated[str, typer.Argument(help="simulate")],
    clients: Annotated[int, typer.Option(min=1, help="Clients in the population.")] = 1000,
    per_round: Annotated[int, typer.Option(min=1, help="Clients per round.")] = 50,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of one measurement.")] = 10,
    repeat: Annotated[int, typer.Option(min=1, help="Measurements of each side.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Measure a workload and its floor in turn, and report medians and ratios."""
    if name in UNBUILT:
        raise NotBuilt(f"`choral bench {name}` is not built yet", hint="known: simulate")
    if name not in BENCHES:
        raise UnknownName(f"unknown bench `{name}`", hint=did_you_mean(name, BENCHES))
    report = BENCHES[name](
        clients=clients,
        per_round=per_round,
        rounds=rounds,
        repeat=repeat,
        say=lambda line: print(line, file=sys.stderr),
    )
    if as_json:
        print(json.dumps(report))
    else:
        _print(report)


def _print(report: dict[str, Any]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("workload", "ours", "floor", "unit", "ratio"):
        table.add_column(column, justify="left" if column in ("workload", "unit") else "right")
    for row in report["rows"]:
        table.add_row(
            row["workload"],
            f"{row['ours']:.4g}",
            f"{row['floor']:.4g}",
            row["unit"],
            f"{row['ratio']:.3f}",
        )
    Console(highlight=False).print(table)
