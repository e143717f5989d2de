"""The clients: how the model does for each, whom the run reached, and who failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from choral.telemetry.charts import Bars, Series, bars
from choral.telemetry.page import Column, Tile, figure, fold, table, tiles
from choral.telemetry.report.reading import (
    Run,
    items,
    metric_names,
    part,
    plural,
    text,
    values_of,
)
from choral.telemetry.text import BLANK, finite, number, percent, plain, whole

CLIENTS: Final = 50
"""Clients, and strata, with a bar and a row of their own: where there are more clients, those at
both ends."""

FAILURES: Final = 200
"""Failures with a row of their own."""

_OPEN: Final = 20


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Clients by one metric, highest first.

    Attributes:
        shown: Client and value; None where clients between the two ends were left out.
        values: Those of all clients.
    """

    shown: Sequence[tuple[str, float] | None]
    values: Sequence[float]

    @staticmethod
    def of(clients: Run, name: str) -> _Ranking:
        """Return the clients that have the metric."""
        found = [(str(c), finite(part(clients, c).get(name))) for c in clients]
        there = [(c, v) for c, v in found if v is not None]
        ranked = sorted(there, key=lambda pair: (-pair[1], pair[0]))
        half = CLIENTS // 2
        shown: list[tuple[str, float] | None] = list(ranked)
        if len(ranked) > CLIENTS:
            shown = [*ranked[:half], None, *ranked[-half:]]
        return _Ranking(shown, [v for _, v in ranked])

    @property
    def note(self) -> str:
        """The spread in words."""
        most, least = number(self.values[0]), number(self.values[-1])
        left = len(self.values) - CLIENTS
        rest = f"; {plural(left, 'client')} in the middle not shown" if left > 0 else ""
        return f"median {number(median(self.values))}, from {least} to {most}{rest}"


def clients(result: Run) -> Iterator[str]:
    """Yield a bar chart per metric that clients were measured by, and their table."""
    found = part(result, "client_metrics")
    names = metric_names([part(found, c) for c in found])
    ranked = {name: _Ranking.of(found, name) for name in names}
    ranked = {name: ranking for name, ranking in ranked.items() if ranking.values}
    if not ranked:
        return
    overall = part(result, "metrics")
    figures = [_ranked(n, ranking, finite(overall.get(n))) for n, ranking in ranked.items()]
    yield '<div class="columns">\n' + "\n".join(figures) + "\n</div>"
    lead, ranking = next(iter(ranked.items()))
    rows = [
        [BLANK] * (len(ranked) + 1)
        if item is None
        else [item[0], *(number(part(found, item[0]).get(name)) for name in ranked)]
        for item in ranking.shown
    ]
    columns = [Column("client", "text"), *(Column(name) for name in ranked)]
    body = table(f"On each client's own held-out examples; sorted by {lead}", columns, rows)
    title = f"Table of {plural(sum(1 for i in ranking.shown if i), 'client')}"
    yield body if len(rows) <= _OPEN else fold(title, body)


def _ranked(name: str, ranking: _Ranking, overall: float | None) -> str:
    names = [None if item is None else item[0] for item in ranking.shown]
    values = [None if item is None else item[1] for item in ranking.shown]
    mark = "" if overall is None else f"; dashed: the run's own, {number(overall)}"
    chart = Bars(f"{name} by client", names, [Series(name, values)], overall)
    return figure(chart.title, bars(chart), note=ranking.note + mark)


# --- coverage -------------------------------------------------------------------------------------


def coverage(result: Run) -> Iterator[str]:
    """Yield whom the run reached, overall and by stratum."""
    found = part(result, "coverage")
    if not found:
        return
    every, seen = whole(found.get("clients")), whole(found.get("seen"))
    taken, longest = whole(found.get("participations")), finite(found.get("rounds_since_max"))
    share = f"{taken / every:.1f} for each client on average" if every else ""
    least = f"; {1 / every:.2g} = always the same client" if every > 1 else ""
    since = "" if longest is None else f"on average; {number(int(longest))} at most"
    yield tiles(
        [
            Tile("clients reached", f"{seen:,} of {every:,}", f"{every - seen:,} never seen"),
            Tile("participations", f"{taken:,}", share),
            Tile(
                "Jain index", _short(finite(found.get("jain")), 3), f"1 = all equally often{least}"
            ),
            Tile("rounds since last seen", _short(finite(found.get("rounds_since_mean"))), since),
        ]
    )
    yield from _strata(part(found, "strata"))


def _strata(strata: Run) -> Iterator[str]:
    """Yield the share of each stratum among the clients and among their participations."""
    shown = [(str(label), part(strata, label)) for label in list(strata)[:CLIENTS]]
    if not shown:
        return
    shares = {"clients": "population_share", "participations": "participation_share"}
    series = [
        Series(name, [v and 100 * v for v in values_of([s for _, s in shown], key)])
        for name, key in shares.items()
    ]
    chart = Bars("share of each stratum", [label for label, _ in shown], series, told=_short)
    rows = [
        [
            label,
            *(cell for n, k in shares.items() for cell in (number(s.get(n)), percent(s.get(k)))),
        ]
        for label, s in shown
    ]
    headings = ("clients", "share", "participations", "share")
    columns = [Column("stratum", "text"), *(Column(name) for name in headings)]
    left = len(strata) - len(shown)
    note = "in per cent" + (f"; {left:,} more not shown" if left > 0 else "")
    drawn = figure(chart.title, bars(chart), note=note, key=list(shares), boxes=True)
    body = table("Clients and their participations by stratum", columns, rows)
    yield f'<div class="columns">\n{drawn}\n{body}\n</div>'


def _short(value: float | None, decimals: int = 1) -> str:
    return BLANK if value is None else f"{value:.{decimals}f}"


# --- failures -------------------------------------------------------------------------------------


def failures(result: Run) -> Iterator[str]:
    """Yield who failed, when and why."""
    found = items(result, "failures")
    if not found:
        yield (
            '<p class="soft">No client reported a failure. One that is lost without a word counts '
            "as dropped.</p>"
        )
        return
    who = plural(len({text(f, "client") for f in found}), "client")
    codes = Counter(text(f, "code") or "unknown" for f in found).most_common(8)
    told = ", ".join(f"{code} ({count:,})" for code, count in codes)
    times = plural(len(found), "failure")
    yield f"<p>{plain(f'{times} of {who}: {told}.')}</p>"
    rows = [
        [
            text(f, "client"),
            number(f.get("round")),
            number(f.get("attempt")),
            text(f, "code"),
            text(f, "message"),
        ]
        for f in found[:FAILURES]
    ]
    columns = [
        Column("client", "text"),
        Column("round"),
        Column("attempt"),
        Column("code", "text"),
        Column("message", "long"),
    ]
    left = len(found) - len(rows)
    caption = "In the order in which they came" + (
        f"; {left:,} later ones not shown" if left else ""
    )
    body = table(caption, columns, rows)
    yield body if len(rows) <= _OPEN else fold(f"Table of {plural(len(rows), 'failure')}", body)
