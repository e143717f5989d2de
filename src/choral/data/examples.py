"""From a table to arrays: features as float32, the target as int64 or float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from choral.core.errors import ConfigError, DataError, EmptyClient, did_you_mean
from choral.core.params import Array
from choral.data.schema import BOOLEANS, Column, ColumnType, Schema, class_text
from choral.data.tables import Table, is_missing, read_table, shorten

Features: TypeAlias = npt.NDArray[np.float32]
Block: TypeAlias = npt.NDArray[np.float64]
Rows: TypeAlias = npt.NDArray[np.intp]
Missing: TypeAlias = Literal["raise", "drop"]


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """A table as a task takes it.

    Attributes:
        x: float32, shape `[n, d]`.
        y: int64 or float32, shape `[n]`.
        groups: Text of the grouping column for each example; empty where none was asked for.
    """

    x: Features
    y: Array
    groups: tuple[str, ...] = ()


def read_examples(
    path: str | Path,
    *,
    target: str | None = None,
    schema: Schema | None = None,
    missing: Missing = "raise",
) -> tuple[Features, Array]:
    """Return the examples of a CSV or Parquet file.

    Args:
        path: The file.
        target: Column to predict; the schema's, or the last one, by default. The columns of a file
            without a header are called "1", "2", ….
        schema: What the columns are. Without one, every column holds numbers.
        missing: What a missing value in a feature or in the target does: `raise`, or `drop` the
            row.

    Returns:
        `X`, float32 of shape `[n, d]`, finite, features in the order of the schema or else of the
        file; and `y`, shape `[n]`: int64 where every target is a whole number, a boolean or the
        index of a declared class, otherwise float32.

    Raises:
        CorruptRow: A cell that cannot be used, with file, line and column; or a ragged row.
        SchemaMismatch: Columns other than the schema's.
        EmptyClient: No example in the file.
        DataError: The file cannot be read at all.
        ConfigError: An unknown `missing`, or a target other than the schema's.
        MissingExtra: A Parquet file without pyarrow installed.
    """
    table = read_table(path, header=None if schema is None else schema.names)
    found = encode(table, target=target, schema=schema, missing=missing)
    return found.x, found.y


def encode(
    table: Table,
    *,
    target: str | None = None,
    schema: Schema | None = None,
    missing: Missing = "raise",
    group: str | None = None,
) -> Examples:
    """Return a table's examples; arguments and errors are those of `read_examples`.

    Args:
        table: The cells.
        target: Column to predict.
        schema: What the columns are.
        missing: `raise` or `drop`.
        group: A column that is no feature; its texts come back as `groups`.
    """
    if missing not in ("raise", "drop"):
        raise ConfigError(
            f"missing `{missing}`", hint=did_you_mean(str(missing), ["raise", "drop"])
        )
    places, goal = _places(table, target, schema)
    grouped = _group_place(table, schema, group)
    features = [
        (at, column)
        for at, column in places
        if at not in (goal[0], grouped) and (column is None or column.type is not ColumnType.TEXT)
    ]
    if not features:
        raise DataError(f"{table.path}: no feature beside the target, expected at least one")
    if not len(table):
        raise EmptyClient(f"{table.path}: no rows below the header, expected one per example")
    blocks = [_block(table, at, column) for at, column in features]
    y = _target(table, *goal)
    keep = _complete(table, [at for at, _ in features] + [goal[0]], [*blocks, y], missing)
    groups = _groups(table, grouped, keep, missing)
    rows = np.flatnonzero(keep)
    if not rows.size:
        raise EmptyClient(f"{table.path}: each of its {len(table)} rows misses a value")
    parts = [
        _narrow(table, at, block[rows], rows)
        for (at, _), block in zip(features, blocks, strict=True)
    ]
    x = np.concatenate(parts, axis=1)
    y = _target_type(table, goal, y[rows], rows)
    return Examples(x, y, tuple(groups[i] for i in rows) if groups else ())


_Place: TypeAlias = tuple[int, Column | None]


def _places(table: Table, target: str | None, schema: Schema | None) -> tuple[list[_Place], _Place]:
    """Return the columns in the order of the features, and the target's."""
    if schema is None:
        at = len(table.names) - 1 if target is None else table.index(target)
        return [(i, None) for i in range(len(table.names))], (at, None)
    if target is not None and target != schema.target:
        raise ConfigError(f"target `{target}`, but the schema's target is `{schema.target}`")
    places: list[_Place] = list(zip(schema.check(table), schema.columns, strict=True))
    return places, places[schema.names.index(schema.target)]


def _group_place(table: Table, schema: Schema | None, group: str | None) -> int | None:
    """Return where the grouping column is; a schema's names count for a file without a header."""
    if group is None:
        return None
    if schema is not None and not table.named and group in schema.names:
        return schema.names.index(group)
    return table.index(group)


def _block(table: Table, at: int, column: Column | None) -> Block:
    """Return one column as features, shape `[rows, k]`, NaN where it is missing."""
    if column is None or column.type is ColumnType.NUMBER:
        return table.numbers(at)[:, None]
    if column.type is ColumnType.CATEGORY:
        codes = _codes(table, at, column)
        classes = np.arange(len(column.classes or ()))
        hot: Block = (codes[:, None] == classes).astype(np.float64)
        hot[np.isnan(codes)] = np.nan
        return hot
    return _codes(table, at, column)[:, None]


def _codes(table: Table, at: int, column: Column) -> Block:
    """Return one column as one number per row, NaN where it is missing."""
    if column.type is ColumnType.INTEGER:
        values = table.numbers(at)
        broken = (values != np.floor(values)) & ~np.isnan(values)
        if broken.any():
            row = int(np.argmax(broken))
            raise table.corrupt(row, at, f"{shorten(values[row])} is not a whole number")
        return values
    if column.type is ColumnType.NUMBER:
        return table.numbers(at)
    known: dict[str, float] = BOOLEANS
    as_key: Callable[[str], str] = str.lower
    if column.classes is not None:
        known = {class_text(c): float(i) for i, c in enumerate(column.classes)}
        as_key = class_text
    out = np.full(len(table), np.nan)
    for row, text in enumerate(table.texts(at)):
        key = as_key(text)
        if key in known:
            out[row] = known[key]
        elif not is_missing(text):
            raise table.corrupt(
                row, at, f"{shorten(text)} is not one of {', '.join(column.classes or BOOLEANS)}"
            )
    return out


def _target(table: Table, at: int, column: Column | None) -> Block:
    """Return the target as float64, a category as the index of its class."""
    if column is None:
        return table.numbers(at)
    if column.type is ColumnType.TEXT:
        raise DataError(
            f"{table.path}: target `{column.name}` is declared as text",
            hint="declare it as a category with its classes, or as a number",
        )
    return _codes(table, at, column)


def _target_type(table: Table, goal: _Place, y: Block, rows: Rows) -> Array:
    """Return the target in the type that its column asks for, or that its values allow."""
    at, column = goal
    whole = np.all(y == np.floor(y)) and np.all(np.abs(y) < 2**53)
    if column.type is ColumnType.NUMBER if column is not None else not whole:
        return _narrow(table, at, y[:, None], rows)[:, 0]
    return y.astype(np.int64)


def _complete(
    table: Table, places: list[int], blocks: list[Block], missing: Missing
) -> npt.NDArray[np.bool_]:
    """Return which rows have every value; raise at the first that has not, where asked to."""
    keep = np.ones(len(table), np.bool_)
    for at, block in zip(places, blocks, strict=True):
        absent = np.isnan(block).reshape(len(table), -1).any(axis=1)
        if missing == "raise" and absent.any():
            raise table.corrupt(
                int(np.argmax(absent)),
                at,
                "the value is missing",
                hint="fill it in, or drop such rows with `missing: drop`",
            )
        keep &= ~absent
    return keep


def _groups(
    table: Table, at: int | None, keep: npt.NDArray[np.bool_], missing: Missing
) -> list[str]:
    """Return the grouping column's texts; rows without one are raised, or taken from `keep`."""
    if at is None:
        return []
    texts = table.texts(at)
    absent = np.array([is_missing(t) for t in texts], np.bool_)
    keep &= _complete(table, [at], [np.where(absent, np.nan, 0.0)], missing)
    return texts


def _narrow(table: Table, at: int, values: Block, rows: Rows) -> Features:
    """Return values of the given rows as float32.

    Raises:
        CorruptRow: One of them is beyond float32.
    """
    with np.errstate(over="ignore"):
        out = values.astype(np.float32)
    bad = np.isinf(out).any(axis=1)
    if bad.any():
        row = int(rows[int(np.argmax(bad))])
        raise table.corrupt(row, at, "the number is beyond float32, about 3.4e38")
    return out
