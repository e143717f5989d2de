"""What people see: progress on stderr, tables on stdout, errors with their hints."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from choral.core.errors import ChoralError
from choral.federation.events import (
    Abandon,
    CohortChosen,
    Committed,
    Evaluated,
    Finish,
    UpdateReceived,
)
from choral.federation.participant import NORM, Failed

_SHOWN_ROUNDS = 12


def say_error(error: ChoralError) -> None:
    """Print an error with its hint, and a client's own traceback where that is the cause."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]error:[/] {_plain(error.message)}")
    if error.hint:
        console.print(f"[bold]hint:[/] {_plain(error.hint)}")
    if error.details:
        console.print(_plain(error.details), style="dim")


def _plain(text: str) -> str:
    """Return text in which nothing is markup."""
    return escape(text.encode("utf-8", "replace").decode())


class RoundProgress:
    """Observer that shows a run as it goes: a live bar on a terminal, else a line per round.

    Args:
        rounds: Rounds of the run.
        console: Where to show it.
    """

    def __init__(self, rounds: int, console: Console) -> None:
        self._rounds = rounds
        self._console = console
        self._live = console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("rounds", total=rounds, note="")
        self._selected = 0
        self._done = 0
        self._last = ""
        self._seen: set[str] = set()

    def __enter__(self) -> RoundProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, item: Any) -> None:
        """Show an event."""
        note = _NOTES.get(type(item))
        if note is not None:
            note(self, item)

    def _chosen(self, event: CohortChosen) -> None:
        self._selected, self._done = len(event.clients), 0

    def _received(self, event: UpdateReceived) -> None:
        self._done += 1
        note = f"round {event.round}: {self._done}/{self._selected} clients  {self._last}"
        self._bar.update(self._task, note=note)

    def _failed(self, outcome: Failed) -> None:
        """Say what happened to a client; its traceback once."""
        self._console.print(
            f"client [bold]{outcome.client}[/] failed: {_plain(outcome.message)}", highlight=False
        )
        if outcome.details and outcome.client not in self._seen:
            self._seen.add(outcome.client)
            self._console.print(_plain(outcome.details), highlight=False, style="dim")

    def _committed(self, event: Committed) -> None:
        metrics = {k: v for k, v in event.metrics.items() if k != NORM}
        self._last = _words(metrics)
        self._bar.update(self._task, completed=event.round, note=self._last)
        if not self._live:
            self._console.print(
                f"round {event.round}/{self._rounds}  {self._done}/{self._selected} clients  "
                f"{self._last}",
                highlight=False,
            )

    def _evaluated(self, event: Evaluated) -> None:
        self._last = _words(event.metrics)
        self._bar.update(self._task, note=self._last)
        if not self._live and event.metrics:
            self._console.print(f"          {self._last}", highlight=False)

    def _abandoned(self, command: Abandon) -> None:
        self._console.print(
            f"round {command.round}, attempt {command.attempt}: {command.reason}", highlight=False
        )

    def _finished(self, _: Finish) -> None:
        self._bar.update(self._task, note=self._last)


_NOTES: dict[type[Any], Any] = {
    CohortChosen: RoundProgress._chosen,
    UpdateReceived: RoundProgress._received,
    Failed: RoundProgress._failed,
    Committed: RoundProgress._committed,
    Evaluated: RoundProgress._evaluated,
    Abandon: RoundProgress._abandoned,
    Finish: RoundProgress._finished,
}


def _words(metrics: Mapping[str, float | None]) -> str:
    return "  ".join(f"{_plain(name)} {_cell(metrics, name)}" for name in sorted(metrics))


def _cell(metrics: Mapping[str, float | None], name: str) -> str:
    """Return a metric for people: empty where it was not measured, a word where it is no number."""
    if name not in metrics:
        return ""
    value = metrics[name]
    return "not finite" if value is None else f"{value:.4f}"


def print_result(result: Mapping[str, Any], *, clients: str = "client") -> None:
    """Print the tables of a run for people.

    Args:
        result: The JSON of the run.
        clients: What its clients are called, such as `hospital`.
    """
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    rounds = list(result["rounds"])
    if len(rounds) > _SHOWN_ROUNDS:
        half = _SHOWN_ROUNDS // 2
        rounds = [*rounds[:half], None, *rounds[-half:]]
    tables = [_rounds_table(rounds)]
    if result["client_metrics"]:
        tables.append(_clients_table(result["client_metrics"], clients))
    tables.append(_summary(result))
    for table in tables:
        console.print()
        console.print(table)


def _rounds_table(rounds: list[Mapping[str, Any] | None]) -> Table:
    names = sorted({n for r in rounds if r is not None for n in r["metrics"]})
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("round", "clients", "dropped", *names, "kB up", "seconds"):
        table.add_column(_plain(name), justify="right")
    for r in rounds:
        if r is None:
            table.add_row("…")
            continue
        cells = [_cell(r["metrics"], name) for name in names]
        table.add_row(
            str(r["round"]),
            str(r["completed"]),
            str(r["dropped"]),
            *cells,
            f"{r['bytes_up'] / 1000:.1f}",
            f"{r['duration_s']:.2f}",
        )
    return table


def _clients_table(metrics: Mapping[str, Mapping[str, float]], clients: str) -> Table:
    names = sorted({n for values in metrics.values() for n in values})
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(clients)
    for name in names:
        table.add_column(_plain(name), justify="right")
    shown = list(metrics.items())[:20]
    for client, values in shown:
        table.add_row(client, *(_cell(values, name) for name in names))
    if len(metrics) > len(shown):
        table.add_row(f"… {len(metrics) - len(shown)} more")
    return table


def bound(privacy: Mapping[str, Any]) -> str:
    """Return in words what a run's model reveals, at most."""
    if privacy.get("epsilon") is None:
        return "no mechanism ran" if privacy["mode"] == "none" else "nothing was released"
    said = (
        f"epsilon {privacy['epsilon']:.3g} at delta {privacy['delta']:g} ({privacy['unit']}, "
        f"{privacy['relation']}), {privacy['mode']} noise"
    )
    if privacy["evaluation"] == "none":
        said += "; clients' own evaluations are released without any"
    return ", ".join([said, *privacy["notes"]])


def summed(aggregation: Mapping[str, Any]) -> str:
    """Return in words what the coordinator saw of the updates."""
    if aggregation["kind"] != "secure":
        return "updates were summed in the clear"
    groups = aggregation.get("groups", 1)
    what = f"{groups} sums of groups were seen" if groups > 1 else "only sums were seen"
    return (
        f"{what} (secure aggregation, suite {aggregation['suite']}, {aggregation['threat_model']} "
        f"server, threshold {aggregation['threshold']})"
    )


def planned(aggregation: Mapping[str, Any], clients: int) -> str:
    """Return in words how many clients a secure round can lose; empty for a plain one."""
    if aggregation["kind"] != "secure":
        return ""
    losses = aggregation["tolerated_losses"]
    return (
        f"secure aggregation, suite {aggregation['suite']}: {clients} clients a round, of which "
        + (f"at most {losses} may be lost" if losses else "none may be lost")
    )


def _summary(result: Mapping[str, Any]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = {
        "status": result["status"],
        **{name: _cell(result["metrics"], name) for name in sorted(result["metrics"])},
    }
    if result["finished"] is not None:  # else it goes on
        rows |= {
            "privacy": f"{bound(result['privacy'])}; {summed(result['aggregation'])}",
            "seed": str(result["seed"]),
            "model": result["model_path"] or "not kept; `--out DIR` keeps it",
            "sha256": result["model_sha256"],
            "time": f"{result['duration_s']:.1f} s",
        }
    if result["failures"]:
        rows["failures"] = str(len(result["failures"]))
    for name, value in rows.items():
        table.add_row(_plain(name), _plain(str(value)))
    return table
