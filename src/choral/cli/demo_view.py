"""What a person sees while the demo runs: the rounds, and what each hospital does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

SHOWN: Final = 8
"""Rounds in the live table."""


class DemoView:
    """A live table on a terminal, else a line per round.

    Args:
        rounds: Rounds of the run.
        hospitals: Names of the clients.
        console: Where to show it.
    """

    def __init__(self, rounds: int, hospitals: Sequence[str], console: Console) -> None:
        self._rounds = rounds
        self._console = console
        self._state = dict.fromkeys(hospitals, "starting")
        self._done: list[tuple[int, float, dict[str, Any]]] = []
        self._phase = "the coordinator starts"
        self._bar = Progress(
            TextColumn("rounds"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._bar.add_task("rounds", total=rounds)
        self._live = Live(
            get_renderable=self._picture, console=console, refresh_per_second=8, transient=True
        )

    def __enter__(self) -> DemoView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def note(self, name: str, line: dict[str, Any] | None) -> None:
        """Take note of a line of a process's log."""
        if name == "coordinator" and line is not None:
            self._coordinator(line)
        elif name in self._state:
            self._state[name] = "ended" if line is None else _words(name, line)

    def _coordinator(self, line: dict[str, Any]) -> None:
        event = line.get("event")
        if event == "cohort_chosen":
            self._phase = f"round {line['round']} of {self._rounds}: {line['clients']} hospitals"
        elif event == "committed":
            self._done.append((line["round"], line["duration_s"], dict(line["metrics"])))
            self._bar.update(self._task, completed=line["round"])
            self._say(line["round"])
        elif event == "evaluated" and self._done:
            self._done[-1][2].update(line["metrics"])
        elif event in {"client_failed", "abandoned"}:
            self._console.print(line["message"], highlight=False, markup=False)
        else:
            self._phase = str(line.get("message", self._phase))

    def _say(self, round_: int) -> None:
        if self._console.is_terminal:
            return
        number, seconds, metrics = self._done[-1]
        words = "  ".join(f"{k} {v:.4f}" for k, v in sorted(metrics.items()) if v is not None)
        self._console.print(
            f"round {number}/{self._rounds}  {seconds:.2f} s  {words}", highlight=False
        )

    def _picture(self) -> Group:
        rounds = Table(box=None, header_style="bold", pad_edge=False)
        names = sorted({name for _, _, metrics in self._done for name in metrics})
        for title in ("round", "seconds", *names):
            rounds.add_column(title, justify="right")
        for number, seconds, metrics in self._done[-SHOWN:]:
            cells = [f"{metrics[n]:.4f}" if metrics.get(n) is not None else "" for n in names]
            rounds.add_row(str(number), f"{seconds:.2f}", *cells)
        clients = Table(box=None, show_header=False, pad_edge=False)
        clients.add_column(style="bold")
        clients.add_column()
        for name, state in self._state.items():
            clients.add_row(name, state)
        return Group(self._bar, self._phase, "", rounds, "", clients)


def _words(name: str, line: dict[str, Any]) -> str:
    """Return a client's line without its name."""
    return str(line.get("message", "")).removeprefix(f"{name}: ")
