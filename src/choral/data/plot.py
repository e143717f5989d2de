"""Stacked horizontal bars as an SVG file that needs nothing beside it.

The drawing brings its own background, light or dark by the reader's preference, so that it is
legible on any page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np
import numpy.typing as npt

COLOURS: Final = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#a8931a",
    "#3a9fc4",
    "#b8428a",
    "#cf7a1e",
    "#5b5fc7",
    "#3aa08f",
    "#8a8a8a",
)
"""One per label, in the order of the labels; neighbours differ in lightness, not in hue alone."""

WIDTH: Final = 860
CHARACTER: Final = 7.0
"""Width that is reserved for one character of 12 px text: above the widest average in use."""

_ROW: Final = 16
_BAR: Final = 11
_PAD: Final = 20
_NAME: Final = 24

_STYLE: Final = """
.card{fill:#ffffff;stroke:#d0d4da}
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif;fill:#1f2328}
.title{font-size:15px;font-weight:600}
.soft{fill:#59636e}
.grid{stroke:#d0d4da;stroke-width:1}
@media (prefers-color-scheme:dark){
.card{fill:#15191f;stroke:#3a424d}
text{fill:#e6eaef}
.soft{fill:#9aa5b1}
.grid{stroke:#333b46}
}
"""


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """What to draw.

    Attributes:
        title: The heading.
        names: One per bar.
        labels: One per colour, at most as many as `COLOURS`.
        counts: Length of each piece, shape `[bars, labels]`, at least 0.
    """

    title: str
    names: Sequence[str]
    labels: Sequence[str]
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where the bars are: left and right edge, top, and examples at the right edge."""

    left: float
    right: float
    top: float
    most: float

    def x(self, value: float) -> float:
        """Return where a number of examples ends."""
        return self.left + (self.right - self.left) * value / self.most


def svg(bars: Bars) -> str:
    """Return the drawing as the text of an SVG file."""
    legend, legend_height = _legend(bars.labels)
    names = [_clip(n) for n in bars.names]
    ticks = axis_ticks(int(bars.counts.sum(axis=1).max(initial=0)))
    left = _PAD + max(len("client"), *(len(n) for n in names)) * CHARACTER + 10
    right = WIDTH - _PAD - len(f"{ticks[-1]:,}") * CHARACTER / 2
    frame = _Frame(left, right, 58 + legend_height, ticks[-1])
    bottom = frame.top + _ROW * len(names)
    height = bottom + 58
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
        f'width="{WIDTH}" height="{height:g}" role="img" aria-label="{escape(bars.title)}">'
    )
    parts = [
        head,
        f"<style>{_STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:g}" rx="8"/>',
        f'<text class="title" x="{_PAD}" y="30">{escape(bars.title)}</text>',
        *legend,
        *_axis(frame, ticks, bottom),
        *_rows(frame, names, bars),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def axis_ticks(most: int) -> list[int]:
    """Return 0 and up to five round numbers, the last of them at or above `most`.

    >>> axis_ticks(600), axis_ticks(3)
    ([0, 200, 400, 600], [0, 1, 2, 3])
    """
    most = max(most, 1)
    scale = 10 ** max(0, math.floor(math.log10(most)) - 1)
    steps = (s * scale for s in (1, 2, 5, 10, 20, 50, 100))
    step = next(s for s in steps if math.ceil(most / s) <= 5)
    return [step * i for i in range(math.ceil(most / step) + 1)]


def _clip(name: str) -> str:
    """Return a name that fits into the margin."""
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"


def _legend(labels: Sequence[str]) -> tuple[list[str], int]:
    """Return the legend, wrapped into lines, and the height of all but its first line."""
    parts = [f'<text class="soft" x="{_PAD}" y="54">label</text>']
    first = _PAD + 6 * CHARACTER
    x, y = first, 44
    for at, label in enumerate(map(_clip, labels)):
        wide = 16 + len(label) * CHARACTER + 14
        if x + wide > WIDTH - _PAD and x > first:
            x, y = first, y + 18
        parts.append(
            f'<rect x="{x:g}" y="{y}" width="11" height="11" rx="2" fill="{COLOURS[at]}"/>'
            f'<text x="{x + 16:g}" y="{y + 10}">{escape(label)}</text>'
        )
        x += wide
    return parts, y - 44 + 12


def _axis(frame: _Frame, ticks: list[int], bottom: float) -> Iterator[str]:
    """Yield grid lines, their numbers and the names of both axes."""
    for tick in ticks:
        x = frame.x(tick)
        yield (
            f'<line class="grid" x1="{x:g}" y1="{frame.top:g}" x2="{x:g}" y2="{bottom:g}"/>'
            f'<text class="soft" x="{x:g}" y="{bottom + 16:g}" text-anchor="middle">{tick:,}</text>'
        )
    middle = (frame.left + frame.right) / 2
    yield (
        f'<text class="soft" x="{middle:g}" y="{bottom + 40:g}" text-anchor="middle">'
        "examples</text>"
    )
    yield (
        f'<text class="soft" x="{frame.left - 8:g}" y="{bottom + 16:g}" text-anchor="end">'
        "client</text>"
    )


def _rows(frame: _Frame, names: Sequence[str], bars: Bars) -> Iterator[str]:
    """Yield each client's name and the pieces of its bar."""
    for at, name in enumerate(names):
        y = frame.top + _ROW * at + (_ROW - _BAR) / 2
        yield (
            f'<text x="{frame.left - 8:g}" y="{y + _BAR - 1:g}" text-anchor="end">'
            f"{escape(name)}</text>"
        )
        start = 0
        for label, value in enumerate(bars.counts[at].tolist()):
            if value:
                x, wide = frame.x(start), frame.x(start + value) - frame.x(start)
                gap = 0.5 if wide > 2 else 0.0
                yield (
                    f'<rect x="{x:.2f}" y="{y:g}" width="{wide - gap:.2f}" height="{_BAR}" '
                    f'fill="{COLOURS[label]}"><title>{escape(name)}, '
                    f"{escape(str(bars.labels[label]))}: {value:,}</title></rect>"
                )
            start += value
