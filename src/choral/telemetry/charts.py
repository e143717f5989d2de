"""Charts as SVG elements for a page that brings the colours.

Nothing in here runs a script or loads anything. What a reader points at answers by its `<title>`.
The classes `s0` and `s1` are the colours of the first and second series; the second line is dashed
and its markers are square, so that the two differ without colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from choral.telemetry.text import number, plain

WIDTH: Final = 480
HEIGHT: Final = 250
BANDS: Final = 160
"""Rounds that a chart can tell apart: more are stacked as means of neighbours."""

_MARKED: Final = 40
_TOP, _RIGHT, _BOTTOM = 14, 14, 42
_CHARACTER: Final = 9.0
"""Width reserved for one character: that of the larger text which narrow screens get."""
_ROW: Final = 24
_NAME: Final = 18


@dataclass(frozen=True, slots=True)
class Series:
    """Named values; None where there is none."""

    name: str
    values: Sequence[float | None]

    @property
    def known(self) -> list[float]:
        """The values that are there."""
        return [v for v in self.values if v is not None]


@dataclass(frozen=True, slots=True)
class Chart:
    """Values over rounds.

    Attributes:
        title: What it shows.
        rounds: Their numbers, ascending.
        series: One or two, each with a value per round.
        from_zero: True where the axis must begin at zero.
    """

    title: str
    rounds: Sequence[int]
    series: Sequence[Series]
    from_zero: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """Values of named things as horizontal bars.

    Attributes:
        title: What it shows.
        names: One per row; None stands for rows that were left out there.
        series: One or two, each with a value per row.
        mark: Where a dashed line stands, or None.
        told: How a value is written at the end of its row.
    """

    title: str
    names: Sequence[str | None]
    series: Sequence[Series]
    mark: float | None = None
    told: Callable[[float | None], str] = number

    def row_text(self, row: int) -> str:
        """Return the values of a row in words; nothing for rows that were left out."""
        if self.names[row] is None:
            return ""
        return " / ".join(self.told(s.values[row]) for s in self.series)


# --- axes -----------------------------------------------------------------------------------------


def axis_ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Return evenly spaced round numbers that enclose `low` to `high`.

    The step is 1, 2 or 5 times a power of ten. Equal ends are moved apart first; what is smaller
    than 1e-290 counts as zero.

    Args:
        low: Smallest value, at least -1e300.
        high: Largest value, `low` to 1e300.
        most: Steps at most, at least 4.

    >>> axis_ticks(0.54, 0.67), axis_ticks(0, 4)
    ([0.5, 0.55, 0.6, 0.65, 0.7], [0.0, 1.0, 2.0, 3.0, 4.0])
    """
    spread = max(abs(low), abs(high))
    if spread < 1e-290:
        low, high = 0.0, 1.0
    elif high - low <= 1e-9 * spread:
        low, high = low - 0.1 * spread, high + 0.1 * spread
    power = math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20):
        step = factor * 10.0**power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= most:
            break
    return [_times(index * factor, power) for index in range(first, last + 1)]


def _times(count: int, power: int) -> float:
    """Return count * 10^power, rounded once."""
    return float(count * 10**power) if power >= 0 else count / 10**-power


def apart(low: float, high: float) -> tuple[float, float]:
    """Return ends that are at least a tenth of the larger one apart, so that jitter looks small.

    Values between 0 and 1, such as shares, stay there.

    >>> apart(0.5, 0.75), apart(0.0, 0.0), apart(0.96, 1.0)
    ((0.5, 0.75), (0.0, 0.0), (0.9, 1.0))
    """
    least = 0.1 * max(abs(low), abs(high))
    if high - low >= least:
        return low, high
    middle = (low + high) / 2
    lower, upper = middle - least / 2, middle + least / 2
    if low >= 0 and high <= 1 and upper > 1:
        return 1 - least, 1.0
    return lower, upper


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Return the ticks as text with as many decimals as their step needs.

    >>> tick_labels([0.5, 0.55, 0.6]), tick_labels([0, 20000, 40000])
    (['0.50', '0.55', '0.60'], ['0', '20,000', '40,000'])
    """
    step = ticks[1] - ticks[0]
    decimals = max(0, math.ceil(-math.log10(step) - 1e-9))
    if decimals > 5 or max(abs(t) for t in ticks) >= 1e6:
        return [f"{t:g}" for t in ticks]
    return [f"{t:,.{decimals}f}" for t in ticks]


def round_ticks(first: int, last: int, *, most: int = 6) -> list[int]:
    """Return the rounds that get a number: the first one, then round numbers.

    >>> round_ticks(1, 15), round_ticks(1, 4), round_ticks(7, 7)
    ([1, 5, 10, 15], [1, 2, 3, 4], [7])
    """
    if last - first < most:
        return list(range(first, last + 1))
    ticks = [round(t) for t in axis_ticks(first, last, most=most)]
    step = ticks[1] - ticks[0]
    return [first, *(t for t in ticks if first + step / 2 <= t <= last)]


@dataclass(frozen=True, slots=True)
class _Plot:
    """Where rounds and values are in the drawing."""

    left: float
    first: int
    last: int
    ticks: Sequence[float]

    @staticmethod
    def of(chart: Chart, values: Sequence[float]) -> _Plot:
        """Return the frame that encloses the values."""
        ends = (min(values, default=0.0), max(values, default=0.0))
        if chart.from_zero:
            ends = (min(ends[0], 0.0), max(ends[1], 0.0))
        ticks = axis_ticks(*apart(*ends))
        left = 12 + _CHARACTER * max(len(label) for label in tick_labels(ticks))
        return _Plot(left, chart.rounds[0], chart.rounds[-1], ticks)

    @property
    def band(self) -> float:
        """Width of one round."""
        return (WIDTH - _RIGHT - self.left) / (self.last - self.first + 1)

    @property
    def floor(self) -> float:
        """Where the horizontal axis is."""
        return HEIGHT - _BOTTOM

    def x(self, at: float) -> float:
        """Return the middle of a round."""
        return self.left + (at - self.first + 0.5) * self.band

    def y(self, value: float) -> float:
        """Return the height of a value."""
        low, high = self.ticks[0], self.ticks[-1]
        return self.floor - (value - low) / (high - low) * (self.floor - _TOP)


def _axes(plot: _Plot) -> Iterator[str]:
    """Yield grid lines with their numbers, and the rounds."""
    for tick, label in zip(plot.ticks, tick_labels(plot.ticks), strict=True):
        y = plot.y(tick)
        kind = "axis" if tick == plot.ticks[0] else "grid"
        yield (
            f'<line class="{kind}" x1="{plot.left:.1f}" y1="{y:.1f}" x2="{WIDTH - _RIGHT}" '
            f'y2="{y:.1f}"/><text class="soft" x="{plot.left - 7:.1f}" y="{y + 4.5:.1f}" '
            f'text-anchor="end">{label}</text>'
        )
    for at in round_ticks(plot.first, plot.last):
        x, label = plot.x(at), f"{at:,}"
        inside = min(x, WIDTH - 1 - _CHARACTER * len(label) / 2)
        yield (
            f'<line class="axis" x1="{x:.1f}" y1="{plot.floor}" x2="{x:.1f}" '
            f'y2="{plot.floor + 4}"/><text class="soft" x="{inside:.1f}" '
            f'y="{plot.floor + 18}" text-anchor="middle">{label}</text>'
        )
    middle = (plot.left + WIDTH - _RIGHT) / 2
    yield (
        f'<text class="soft" x="{middle:.1f}" y="{HEIGHT - 5}" text-anchor="middle">round</text>'
    )


def _svg(label: str, parts: Iterator[str], *, height: float = HEIGHT) -> str:
    """Return the element around a drawing."""
    body = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{plain(label)}">\n'
        f"{body}\n</svg>"
    )


# --- lines ----------------------------------------------------------------------------------------


def lines(chart: Chart) -> str:
    """Return a line per series over the rounds; a missing value is bridged.

    Args:
        chart: With at least one round.
    """
    plot = _Plot.of(chart, [v for s in chart.series for v in s.known])

    def parts() -> Iterator[str]:
        yield from _axes(plot)
        for at, series in enumerate(chart.series):
            yield from _line(plot, chart.rounds, series, at)
        yield from _answers(plot, chart)

    return _svg(_story(chart), parts())


def _line(plot: _Plot, rounds: Sequence[int], series: Series, at: int) -> Iterator[str]:
    """Yield one line, with markers where they are few."""
    points = [
        (plot.x(r), plot.y(v)) for r, v in zip(rounds, series.values, strict=True) if v is not None
    ]
    if len(points) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<polyline class="line s{at}" points="{path}"/>'
    marked = points if len(points) <= _MARKED else points[-1:]
    for x, y in marked:
        if at:
            yield f'<rect class="s{at}" x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"/>'
        else:
            yield f'<circle class="s{at}" cx="{x:.1f}" cy="{y:.1f}" r="3.4"/>'


def _answers(plot: _Plot, chart: Chart) -> Iterator[str]:
    """Yield invisible columns that say their values when pointed at."""
    step = math.ceil(len(chart.rounds) / BANDS)
    wide = plot.band * step
    for i in range(0, len(chart.rounds), step):
        found = [f"{s.name} {number(s.values[i])}" for s in chart.series]
        words = f"round {chart.rounds[i]}: " + ", ".join(found)
        yield (
            f'<rect class="band" x="{plot.x(chart.rounds[i]) - wide / 2:.1f}" y="{_TOP}" '
            f'width="{wide:.2f}" height="{plot.floor - _TOP}"><title>{plain(words)}</title></rect>'
        )


def _story(chart: Chart) -> str:
    """Return a chart's first and last values in words."""
    told = []
    for series in chart.series:
        known = [(r, v) for r, v in zip(chart.rounds, series.values, strict=True) if v is not None]
        if not known:
            told.append(f"{series.name} is not known")
            continue
        ends = known[:1] if len(known) == 1 else [known[0], known[-1]]
        told.append(f"{series.name} " + ", ".join(f"{number(v)} in round {r}" for r, v in ends))
    return f"{chart.title} over the rounds: " + "; ".join(told)


# --- stacks ---------------------------------------------------------------------------------------


def stacks(chart: Chart) -> str:
    """Return a stacked column per round; where rounds are too many, means of neighbours.

    Args:
        chart: With at least one round and values of at least 0.
    """
    step = math.ceil(len(chart.rounds) / BANDS)
    groups = [range(i, min(i + step, len(chart.rounds))) for i in range(0, len(chart.rounds), step)]
    means = [[_mean(s.values, group) for s in chart.series] for group in groups]
    plot = _Plot.of(chart, [0.0, *(sum(values) for values in means)])

    def parts() -> Iterator[str]:
        yield from _axes(plot)
        for group, values in zip(groups, means, strict=True):
            yield from _column(plot, chart, group, values)

    return _svg(_story(chart), parts())


def _mean(values: Sequence[float | None], group: range) -> float:
    return sum(values[i] or 0.0 for i in group) / len(group)


def _column(plot: _Plot, chart: Chart, group: range, values: list[float]) -> Iterator[str]:
    """Yield the pieces of one column, the first series at the bottom."""
    first, last = chart.rounds[group[0]], chart.rounds[group[-1]]
    middle, room = (plot.x(first) + plot.x(last)) / 2, plot.band * (last - first + 1)
    wide = min(room - min(2.0, 0.2 * room), 46.0)
    when = f"round {first}" if first == last else f"mean of rounds {first} to {last}"
    told = [f"{s.name} {v:g}" for s, v in zip(chart.series, values, strict=True)]
    words = plain(f"{when}: {', '.join(told)}")
    base = 0.0
    for at, value in enumerate(values):
        if value > 0:
            top, foot = plot.y(base + value), plot.y(base)
            yield (
                f'<rect class="bar s{at}" x="{middle - wide / 2:.1f}" y="{top:.1f}" '
                f'width="{wide:.2f}" height="{foot - top:.1f}"><title>{words}</title></rect>'
            )
        base += value


# --- bars -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Lane:
    """Where the bars are: the left and right end of the axis, and its ticks."""

    left: float
    right: float
    ticks: Sequence[float]
    foot: float

    @staticmethod
    def of(chart: Bars) -> _Lane:
        """Return the frame that fits names, values and bars."""
        known = [v for s in chart.series for v in s.known] + [chart.mark or 0.0, 0.0]
        rows = range(len(chart.names))
        left = 12 + _CHARACTER * max(len(_clip(name)) for name in chart.names)
        right = WIDTH - 20 - _CHARACTER * max(len(chart.row_text(row)) for row in rows)
        foot = _TOP + _ROW * len(chart.names)
        return _Lane(left, right, axis_ticks(min(known), max(known), most=4), foot)

    def x(self, value: float) -> float:
        """Return where a value ends."""
        low, high = self.ticks[0], self.ticks[-1]
        return self.left + (value - low) / (high - low) * (self.right - self.left)


def bars(chart: Bars) -> str:
    """Return horizontal bars from zero, each row with its values at its end.

    Args:
        chart: With at least one row.
    """
    lane = _Lane.of(chart)

    def parts() -> Iterator[str]:
        for tick, label in zip(lane.ticks, tick_labels(lane.ticks), strict=True):
            x, kind = f"{lane.x(tick):.1f}", "grid" if tick else "axis"
            yield (
                f'<line class="{kind}" x1="{x}" y1="{_TOP}" x2="{x}" y2="{lane.foot}"/>'
                f'<text class="soft" x="{x}" y="{lane.foot + 18}" text-anchor="middle">'
                f"{label}</text>"
            )
        for row, name in enumerate(chart.names):
            yield from _row(lane, chart, row, name)
        if chart.mark is not None:
            x = f"{lane.x(chart.mark):.1f}"
            for kind in ("halo", "mark"):
                yield f'<line class="{kind}" x1="{x}" y1="{_TOP - 6}" x2="{x}" y2="{lane.foot}"/>'

    shown = [f"{n} {chart.row_text(i)}" for i, n in enumerate(chart.names) if n is not None]
    told = f"{chart.title}, {len(shown)} bars: " + "; ".join([*shown[:8], "…"][: len(shown)])
    return _svg(told, parts(), height=lane.foot + 24)


def _clip(name: str | None) -> str:
    """Return a name that fits into the margin."""
    if name is None:
        return "⋮"
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"


def _row(lane: _Lane, chart: Bars, row: int, name: str | None) -> Iterator[str]:
    """Yield the name of a row, its bars and its values."""
    top = _TOP + _ROW * row
    y = f"{top + _ROW / 2 + 4.5:.1f}"
    full = "" if name is None else f"<title>{plain(name)}</title>"
    yield (
        f'<text x="{lane.left - 8:.1f}" y="{y}" text-anchor="end">{full}{plain(_clip(name))}</text>'
    )
    tall = (_ROW - 8) / len(chart.series)
    for at, series in enumerate(chart.series):
        value = series.values[row]
        if name is not None and value is not None:
            start, end = sorted((lane.x(0.0), lane.x(value)))
            words = plain(f"{name}, {series.name}: {chart.told(value)}")
            yield (
                f'<rect class="bar s{at}" x="{start:.1f}" y="{top + 4 + at * tall:.1f}" '
                f'width="{max(end - start, 0.5):.1f}" height="{tall:.1f}" rx="2">'
                f"<title>{words}</title></rect>"
            )
    yield f'<text x="{WIDTH - 4}" y="{y}" text-anchor="end">{plain(chart.row_text(row))}</text>'
