"""What happened over the rounds: a chart per figure, and the table behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from choral.telemetry.charts import Chart, Series, lines, stacks
from choral.telemetry.page import Column, figure, fold, table
from choral.telemetry.report.reading import (
    TRAIN,
    Run,
    items,
    known,
    metric_names,
    numbers_of,
    part,
    plural,
    values_of,
)
from choral.telemetry.text import BLANK, duration, number, size, size_unit

ROWS: Final = 1000
"""Rounds with a row of their own: the first and the last where there are more."""

_OPEN: Final = 20


def curves(result: Run) -> Iterator[str]:
    """Yield the charts, and what their names mean."""
    rounds = items(result, "rounds")
    if not rounds:
        yield '<p class="soft">No round was committed, so there is nothing to plot.</p>'
        return
    drawn = [*_metrics(rounds), _clients(rounds), *_norms(rounds), *_bytes(rounds), *_rest(rounds)]
    yield '<div class="columns">\n' + "\n".join(drawn) + "\n</div>"
    if any(name.startswith(TRAIN) for r in rounds for name in part(r, "metrics")):
        yield (
            f'<p class="note">Names that begin with <em>{TRAIN}</em> are what clients measured '
            "while they trained, averaged with the weights of their updates. The other metrics "
            "were measured on held-out examples after the round.</p>"
        )


def _lines(chart: Chart, note: str) -> str:
    """Return a figure of lines; one line alone needs no key."""
    names = [s.name for s in chart.series]
    return figure(chart.title, lines(chart), note=note, key=names if len(names) > 1 else ())


def _metrics(rounds: Sequence[Run]) -> Iterator[str]:
    """Yield a chart per metric; one of training shares that of its namesake."""
    at = numbers_of(rounds)
    groups: dict[str, list[Series]] = {}
    for name in metric_names([part(r, "metrics") for r in rounds]):
        series = Series(name, values_of(rounds, name, within="metrics"))
        if series.known:
            groups.setdefault(name.removeprefix(TRAIN), []).append(series)
    for group in groups.values():
        title = " and ".join(s.name for s in group)
        yield _lines(Chart(title, at, group), _ends(at, group[0]))


def _ends(at: Sequence[int], series: Series) -> str:
    """Return where a series began and where it ended, in words."""
    there = [(r, v) for r, v in zip(at, series.values, strict=True) if v is not None]
    told = [f"{number(v)} in round {r:,}" for r, v in there]
    if len(told) == 1:
        return f"{series.name} {told[0]}"
    return f"{series.name} from {told[0]} to {told[-1]}"


def _clients(rounds: Sequence[Run]) -> str:
    series = [Series(name, values_of(rounds, name)) for name in ("completed", "dropped")]
    done, lost = (int(sum(s.known)) for s in series)
    note = f"{plural(done, 'update')} went into the model"
    if lost:
        note += f"; {plural(lost, 'invitation')} led to none: failed, lost, or not needed any more"
    chart = Chart("clients", numbers_of(rounds), series, from_zero=True)
    return figure(
        "clients per round", stacks(chart), note=note, key=[s.name for s in series], boxes=True
    )


def _norms(rounds: Sequence[Run]) -> Iterator[str]:
    every = [Series(n, values_of(rounds, n, within="update_norm")) for n in ("mean", "max")]
    series = [s for s in every if s.known]
    if series:
        note = "L2 norm of the clients' changes to the model"
        if len(series) < len(every):
            hidden = next(s.name for s in every if not s.known)
            note += f"; their {hidden} could not be seen"
        yield _lines(Chart("update norm", numbers_of(rounds), series, from_zero=True), note)


def _bytes(rounds: Sequence[Run]) -> Iterator[str]:
    found = {name: values_of(rounds, f"bytes_{name}") for name in ("up", "down")}
    there = {name: known(values) for name, values in found.items()}
    if not any(there.values()):
        return
    unit, factor = size_unit(max(v for values in there.values() for v in values))
    series = [
        Series(name, [None if v is None else v / factor for v in values])
        for name, values in found.items()
        if there[name]
    ]
    note = "in all " + ", ".join(f"{size(sum(v))} {name}" for name, v in there.items() if v)
    title = f"{'bytes' if unit == 'B' else unit} per round"
    yield _lines(Chart(title, numbers_of(rounds), series, from_zero=True), note)


def _rest(rounds: Sequence[Run]) -> Iterator[str]:
    """Yield privacy loss and time."""
    at = numbers_of(rounds)
    loss = Series("ε", values_of(rounds, "epsilon"))
    if loss.known:
        yield _lines(Chart("privacy loss ε", at, [loss], from_zero=True), _ends(at, loss))
    times = Series("seconds", values_of(rounds, "duration_s"))
    if times.known:
        note = f"seconds; {duration(sum(times.known))} for all rounds together"
        yield _lines(Chart("time per round", at, [times], from_zero=True), note)


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cells:
    """A column: its heading, where its values are, and how they are written."""

    name: str
    key: str
    within: str = ""
    show: Callable[[Any], str] = number

    def read(self, round_: Run) -> Any:
        """Return the value of a round."""
        return (part(round_, self.within) if self.within else round_).get(self.key)


def round_table(result: Run) -> Iterator[str]:
    """Yield a row per round, folded where there are many."""
    rounds = items(result, "rounds")
    columns = _columns(rounds)
    if not columns:
        return
    left = len(rounds) - ROWS
    shown = rounds if left <= 0 else [*rounds[: ROWS // 2], *rounds[-ROWS // 2 :]]
    rows = [[c.show(c.read(r)) for c in columns] for r in shown]
    if left > 0:
        rows.insert(ROWS // 2, [BLANK] * len(columns))
    caption = "Committed rounds" + (f"; {left:,} in the middle are left out" if left > 0 else "")
    body = table(caption, [Column(c.name) for c in columns], rows)
    yield body if len(rounds) <= _OPEN else fold(f"Table of {plural(len(rounds), 'round')}", body)


def _columns(rounds: Sequence[Run]) -> list[_Cells]:
    """Return the columns in which there is a value."""
    counts = ("round", "attempt", "selected", "completed", "dropped")
    metrics = metric_names([part(r, "metrics") for r in rounds])
    columns = [
        *(_Cells(name, name) for name in counts),
        *(_Cells(name, name, "metrics") for name in metrics),
        *(_Cells(f"norm, {name}", name, "update_norm") for name in ("mean", "max")),
        _Cells("up", "bytes_up", show=size),
        _Cells("down", "bytes_down", show=size),
        _Cells("ε", "epsilon"),
        _Cells("time", "duration_s", show=duration),
    ]
    return [c for c in columns if any(c.read(r) is not None for r in rounds)]
