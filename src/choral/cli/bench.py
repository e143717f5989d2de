"""`choral bench`: how fast, against the same work written by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from choral.core.errors import ConfigError, NotBuilt, UnknownName, did_you_mean

OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "simulate": {"clients": 1000, "per_round": 50, "rounds": 10, "repeat": 5},
    "secagg": {
        "clients": 100,
        "params": 1_000_000,
        "dropout": 0.0,
        "corrupt": 0.05,
        "suite": None,
        "lost_at": "any",
        "modulus_bits": 32,
        "repeat": 1,
    },
    "transfer": {"mb": 64, "repeat": 5},
    "round": {"mb": 1, "clients": 4, "rounds": 10},
    "privacy": {"clients": 100, "params": 1_000_000, "repeat": 5},
}
"""Bench to its options and their defaults."""

UNBUILT = ("aggregate", "compress", "robust", "scale")


def command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="simulate, secagg, transfer, round or privacy")],
    clients: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Clients: 1000 in all (simulate), 100 in the cohort (secagg, privacy), 4 (round).",
        ),
    ] = None,
    per_round: Annotated[
        int | None, typer.Option(min=1, help="simulate: clients per round; 50.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="simulate, round: rounds of one measurement; 10.")
    ] = None,
    mb: Annotated[
        int | None,
        typer.Option(min=1, help="Mebibytes: 64 of a transfer, 1 of the model of a round."),
    ] = None,
    params: Annotated[
        int | None, typer.Option(min=1, help="secagg, privacy: elements of a vector; 1000000.")
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(metavar="F", help="secagg: fraction lost on the way; 0.")
    ] = None,
    corrupt: Annotated[
        float | None,
        typer.Option(metavar="F", help="secagg: fraction that may help the server; 0.05."),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="secagg: full, graph or semi_honest; default by the cohort's size."),
    ] = None,
    lost_at: Annotated[
        str | None,
        typer.Option(
            metavar="STEP",
            help="secagg: step at which clients are lost, R0 to R4, or any; R2 costs most.",
        ),
    ] = None,
    modulus_bits: Annotated[
        int | None, typer.Option(help="secagg: bits of the modulus, 16, 24, 32 or 64; 32.")
    ] = None,
    repeat: Annotated[
        int | None,
        typer.Option(min=1, help="Measurements: 5 (simulate, transfer, privacy), 1 (secagg)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Measure a workload and its floor in turn, and report medians and ratios."""
    given = {k: v for k, v in ctx.params.items() if k not in {"name", "as_json"}}
    if name in UNBUILT:
        raise NotBuilt(
            f"`choral bench {name}` is not built yet", hint="known: " + ", ".join(OPTIONS)
        )
    if name not in OPTIONS:
        raise UnknownName(f"unknown bench `{name}`", hint=did_you_mean(name, OPTIONS))
    report = _BENCHES[name](_options(name, given))
    if as_json:
        print(json.dumps(report))
    else:
        _PRINTED[name](report)


def _options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a bench.

    Raises:
        ConfigError: One that it does not have was given.
    """
    known = OPTIONS[name]
    for option, value in given.items():
        if value is not None and option not in known:
            words = option.replace("_", "-")
            raise ConfigError(f"`choral bench {name}` has no --{words}", hint="leave it out")
    return {o: default if given[o] is None else given[o] for o, default in known.items()}


def _simulate(options: Mapping[str, Any]) -> dict[str, Any]:
    from choral.bench.simulate import bench_simulate

    return bench_simulate(**options, say=lambda line: print(line, file=sys.stderr))


def _secagg(options: Mapping[str, Any]) -> dict[str, Any]:
    from choral.bench.secagg import bench_secagg

    with _Stages(Console(stderr=True, highlight=False)) as stages:
        return bench_secagg(**options, watch=stages)


def _transfer(options: Mapping[str, Any]) -> dict[str, Any]:
    from choral.bench.transfer import bench_transfer

    with _Stages(Console(stderr=True, highlight=False)) as stages:
        return bench_transfer(**options, watch=stages)


def _round(options: Mapping[str, Any]) -> dict[str, Any]:
    from choral.bench.round import bench_round

    if options["clients"] < 3:
        raise ConfigError("--clients: at least 3, for the secure round", hint="--clients 4")
    with _Stages(Console(stderr=True, highlight=False)) as stages:
        return bench_round(**options, watch=stages)


def _privacy(options: Mapping[str, Any]) -> dict[str, Any]:
    from choral.bench.privacy import bench_privacy

    with _Stages(Console(stderr=True, highlight=False)) as stages:
        return bench_privacy(**options, watch=stages)


_BENCHES: Final[dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "simulate": _simulate,
    "secagg": _secagg,
    "transfer": _transfer,
    "round": _round,
    "privacy": _privacy,
}


class _Stages:
    """Shows the stages of a measurement: a bar on a terminal, else a line for each."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", note="")
        self._stage = ""

    def __enter__(self) -> _Stages:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is; `total` is 0 where it is not known."""
        if stage != self._stage and not self._console.is_terminal:
            self._console.print(stage)
        self._stage = stage
        note = f"{done}/{total}" if total else ""
        self._bar.update(
            self._task, description=stage, completed=done, total=total or None, note=note
        )


# --- what people see ------------------------------------------------------------------------------


def _table(*columns: str) -> Table:
    """Return an empty table whose first column is words."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for at, column in enumerate(columns):
        table.add_column(column, justify="left" if at == 0 or column == "unit" else "right")
    return table


def _rows(report: Mapping[str, Any]) -> Table:
    table = _table("workload", "ours", "floor", "unit", "ratio")
    for row in report["rows"]:
        floor = "" if row["floor"] is None else f"{row['floor']:.4g}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f}"
        table.add_row(row["workload"], f"{row['ours']:.4g}", floor, row["unit"], ratio)
    return table


def _print_rows(report: Mapping[str, Any]) -> None:
    Console(highlight=False).print(_rows(report))


def _print_secagg(report: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    work = report["workload"]
    lost = ", ".join(f"{count} at {step}" for step, count in work["lost"].items()) or "none"
    console.print(
        f"{work['clients']} clients, {work['params']:,} parameters, suite {work['suite']} "
        f"(k = {work['k']}, t = {work['t']}), m = {work['modulus_bits']}\n"
        f"lost: {lost}; the sum over {work['survivors']} is exact\n"
    )
    console.print(_rows(report))
    steps = _table("CPU time by step", "client, ms", "server, ms")
    for row in report["steps"]:
        steps.add_row(row["step"], f"{1e3 * row['client_s']:.1f}", f"{1e3 * row['server_s']:.1f}")
    made = _table("floor", "one, ms", "client", "ms", "server", "ms")
    for row in report["primitives"]:
        made.add_row(
            row["primitive"].replace("_", " "),
            f"{1e3 * row['seconds']:.3f}",
            *_times(row["client_times"], row["client_s"]),
            *_times(row["server_times"], row["server_s"]),
        )
    for table in (steps, made):
        console.print()
        console.print(table)


def _times(times: float, seconds: float) -> tuple[str, str]:
    return (f"{times:.0f} x", f"{1e3 * seconds:.1f}") if times else ("", "")


_PRINTED: Final[dict[str, Callable[[Mapping[str, Any]], None]]] = {
    "simulate": _print_rows,
    "transfer": _print_rows,
    "round": _print_rows,
    "privacy": _print_rows,
    "secagg": _print_secagg,
}
