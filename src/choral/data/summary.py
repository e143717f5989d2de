"""Who holds what: sizes and labels per client, as text and as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from choral.core.checks import whole
from choral.core.errors import ConfigError, DataError
from choral.core.params import ClientId
from choral.core.task import ClientSource
from choral.data.plot import Bars, svg
from choral.data.split import count, labels_of
from choral.data.tables import plain_number

MAX_LABELS: Final = 10
"""Labels with a column or a colour of their own; the rest are shown together."""

MAX_SIZES: Final = 100_000
"""Clients whose size is looked up."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """Sizes and labels of a source's clients.

    Attributes:
        clients: Number of clients of the source.
        shown: The clients that were loaded, evenly spaced among all.
        train: int64, shape `[shown]`: training examples of each.
        test: int64, shape `[shown]`: held-out examples of each.
        sizes: int64: training examples of all clients, or of those whose number is known; those
            of the shown ones where it is known of none.
        labels: Names of the distinct labels among the shown clients; empty for a real-valued
            target or data without labels.
        counts: int64, shape `[shown, labels]`: training and held-out examples of each label.
    """

    clients: int
    shown: tuple[ClientId, ...]
    train: Counts
    test: Counts
    sizes: Counts
    labels: tuple[str, ...]
    counts: Counts

    def __str__(self) -> str:
        return _headline(self) + "\n" + _table(self)

    def plot(self, path: str | Path) -> None:
        """Write a bar per shown client, in the colours of its labels, as an SVG file.

        Args:
            path: The file, with the suffix .svg; it needs nothing beside it.

        Raises:
            ConfigError: Another suffix.
        """
        if Path(path).suffix.lower() != ".svg":
            raise ConfigError(f"{path}: expected a file with the suffix .svg")
        labels, counts = _grouped(self, MAX_LABELS)
        if not labels:
            labels, counts = ("examples",), (self.train + self.test)[:, None]
        title = f"Examples per client ({_of(self)})"
        Path(path).write_text(svg(Bars(title, self.shown, labels, counts)), encoding="utf-8")


def summary(source: ClientSource, *, clients: int = 50) -> Summary:
    """Return sizes and label counts of a source's clients.

    Args:
        source: Clients by id.
        clients: How many to load at most, at least 1; they are evenly spaced among all.

    Raises:
        ConfigError: `clients` is below 1.
        DataError: A client's data cannot be used.

    >>> import numpy as np
    >>> from choral.data.partitioners import iid
    >>> held = summary(iid((np.zeros((8, 1)), np.arange(8) % 2), clients=2, test_fraction=0.25))
    >>> held.train.tolist(), held.test.tolist(), held.labels, held.counts.sum(axis=0).tolist()
    ([3, 3], [1, 1], ('0', '1'), [4, 4])
    """
    clients = whole("clients", clients, least=1)
    ids = source.ids
    shown = _spaced(ids, clients)
    train, test, targets = [], [], []
    for client in shown:
        data = source.load(client)
        train.append(count(data.train, f"client `{client}`"))
        test.append(0 if data.test is None else count(data.test, f"client `{client}`"))
        targets.append([_labels(d) for d in (data.train, data.test) if d is not None])
    known = [n for c in _spaced(ids, MAX_SIZES) if (n := source.examples(c)) is not None]
    labels, counts = _count(targets)
    return Summary(
        len(ids),
        shown,
        np.array(train, np.int64),
        np.array(test, np.int64),
        np.array(known or train, np.int64),
        labels,
        counts,
    )


def _spaced(ids: Sequence[ClientId], most: int) -> tuple[ClientId, ...]:
    """Return up to `most` ids, evenly spaced."""
    if len(ids) <= most:
        return tuple(ids)
    return tuple(ids[i * len(ids) // most] for i in range(most))


def _labels(data: Any) -> npt.NDArray[Any] | None:
    """Return the labels of data, or None where it has none that can be counted."""
    try:
        labels = labels_of(data)
    except DataError:
        return None
    if labels.dtype.kind == "f" and not np.array_equal(labels, np.floor(labels)):
        return None
    return labels


def _count(
    targets: list[list[npt.NDArray[Any] | None]],
) -> tuple[tuple[str, ...], Counts]:
    """Return the names of all labels, and how many of each every client has."""
    rows = [[part for part in parts if part is not None] for parts in targets]
    if any(len(row) != len(parts) for row, parts in zip(rows, targets, strict=True)):
        return (), np.zeros((len(targets), 0), np.int64)
    kinds = np.unique(np.concatenate([part for row in rows for part in row]))
    counts = np.zeros((len(rows), len(kinds)), np.int64)
    for at, row in enumerate(rows):
        found = np.searchsorted(kinds, np.concatenate(row))
        counts[at] = np.bincount(found, minlength=len(kinds))
    names = (plain_number(v) if isinstance(v, float) else str(v) for v in kinds.tolist())
    return tuple(names), counts


def _grouped(summary: Summary, most: int) -> tuple[tuple[str, ...], Counts]:
    """Return the labels and counts with all but the most frequent labels in one column."""
    labels, counts = summary.labels, summary.counts
    if len(labels) <= most:
        return labels, counts
    first = np.sort(np.argsort(-counts.sum(axis=0), kind="stable")[: most - 1])
    rest = np.setdiff1d(np.arange(len(labels)), first)
    names = (*(labels[i] for i in first), f"{len(rest)} others")
    return names, np.column_stack([counts[:, first], counts[:, rest].sum(axis=1)])


def _of(summary: Summary) -> str:
    """Return how many of the clients are shown, in words."""
    if len(summary.shown) == summary.clients:
        return f"{summary.clients:,} clients"
    return f"{len(summary.shown):,} of {summary.clients:,} clients"


def _headline(summary: Summary) -> str:
    """Return the line above the table."""
    sizes = summary.sizes
    low, high, middle = sizes.min(), sizes.max(), np.median(sizes)
    every = len(sizes) == summary.clients
    return (
        f"{summary.clients:,} clients; training examples per client: {low:,} to {high:,}, "
        f"median {middle:,.6g}" + ("" if every else f" (over {len(sizes):,} clients)")
    )


def _table(summary: Summary) -> str:
    """Return a row per shown client and one for their sum."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    labels, counts = _grouped(summary, MAX_LABELS)
    table = Table(box=box.SIMPLE_HEAD, show_footer=True, title=_of(summary), title_justify="left")
    columns = [("train", summary.train), ("test", summary.test)]
    columns += [(label, counts[:, i]) for i, label in enumerate(labels)]
    table.add_column("client", footer="all shown", no_wrap=True)
    for name, values in columns:
        footer = f"{values.sum():,}"
        table.add_column(name, footer=footer, justify="right", overflow="fold")
    for at, client in enumerate(summary.shown):
        table.add_row(client, *(f"{values[at]:,}" for _, values in columns))
    out = io.StringIO()
    Console(file=out, width=140, color_system=None, legacy_windows=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())
