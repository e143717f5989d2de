"""Local files as tables: CSV and Parquet, with the place of every cell kept for error messages."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO, TypeAlias

import numpy as np
import numpy.typing as npt

from choral.core.errors import CorruptRow, DataError, EmptyClient, MissingExtra, did_you_mean

MISSING: Final = frozenset({"", "?", "na", "n/a", "#n/a", "nan", "null", "none"})
"""Cells that stand for no value, in lower case."""

CSV_SUFFIXES: Final = (".csv", ".tsv", ".data")
PARQUET_SUFFIXES: Final = (".parquet", ".pq")

Cells: TypeAlias = npt.NDArray[Any]
"""One column: float64 with NaN for missing, or objects of type str with "" for missing."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The cells of one file, column by column.

    Attributes:
        names: Column names; "1", "2", … where the file has none.
        columns: One array per column, all of one length.
        path: The file, as the reader was given it.
        lines: int64, shape `[rows]`: where each row starts, counted from 1.
        named: Whether the file itself names its columns.
        unit: What `lines` counts: `line` of a text file or `row` of a Parquet file.
    """

    names: tuple[str, ...]
    columns: tuple[Cells, ...]
    path: str
    lines: npt.NDArray[np.int64]
    named: bool
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.lines)

    def index(self, name: str) -> int:
        """Return the position of a column.

        Raises:
            DataError: There is no such column.
        """
        if name in self.names:
            return self.names.index(name)
        if not self.named:
            raise DataError(
                f"{self.path}: no column `{name}`; the file has no header",
                hint=f'its columns are called "1" to "{len(self.names)}"',
            )
        raise DataError(f"{self.path}: no column `{name}`", hint=did_you_mean(name, self.names))

    def corrupt(self, row: int, column: int, what: str, *, hint: str = "") -> CorruptRow:
        """Return the error for one cell: file, line and column, then what is wrong with it."""
        return CorruptRow(f"{self.place(row, column)}: {what}", hint=hint)

    def place(self, row: int, column: int) -> str:
        """Return where a cell is, in words."""
        name = f" (`{self.names[column]}`)" if self.named else ""
        return f"{self.path}, {self.unit} {self.lines[row]}, column {column + 1}{name}"

    def texts(self, column: int) -> list[str]:
        """Return a column as stripped strings; a missing number is ""."""
        cells = self.columns[column]
        if cells.dtype != object:
            return ["" if math.isnan(v) else plain_number(v) for v in cells.tolist()]
        return [c.strip() for c in cells]

    def numbers(self, column: int) -> npt.NDArray[np.float64]:
        """Return a column as float64, NaN for a missing cell.

        Raises:
            CorruptRow: A cell that is not a finite number; names the first one.
        """
        cells = self.columns[column]
        if cells.dtype == object:
            values, bad = _parse(cells)
        else:
            values, bad = cells, np.isinf(cells)
        if bad.any():
            row = int(np.argmax(bad))
            hint = ""
            if bad.sum() * 2 > len(bad) > 1:
                hint = "declare the column as `category` in a schema"
            elif row == 0 and not self.named:
                hint = "if this is a header, give the columns names that are not numbers"
            raise self.corrupt(
                row, column, f"{shorten(cells[row])} is not a finite number", hint=hint
            )
        return values


def read_table(path: str | Path, *, header: bool | Sequence[str] | None = None) -> Table:
    """Return the cells of a CSV or Parquet file.

    Args:
        path: Parquet where its suffix says so, else CSV: UTF-8, separated by commas, or by tabs or
            semicolons where its first line has no comma. Blank lines are skipped.
        header: Whether a CSV file names its columns in its first line. None finds out: a first
            line with a cell that is neither a number nor missing is a header, unless another of
            its cells is a number: then it is taken as a corrupt row, so that no example is lost
            unseen. A sequence of expected names makes any line that has one of them a header.

    Returns:
        The table; it may have no rows.

    Raises:
        CorruptRow: A row with more or fewer cells than the first, or quotes that do not close.
        DataError: No such file, nothing in it, not UTF-8, or a column name used twice.
        MissingExtra: A Parquet file without pyarrow installed.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{path}: no such file", hint=f"looked in {file.absolute().parent}")
    if file.suffix.lower() in PARQUET_SUFFIXES:
        return _read_parquet(file)
    return _read_csv(file, header)


def is_missing(cell: str) -> bool:
    """Return whether a cell stands for no value.

    >>> is_missing(" ? "), is_missing("NaN"), is_missing("0")
    (True, True, False)
    """
    return cell.strip().lower() in MISSING


def parse_number(cell: str) -> float:
    """Return a cell as a number, NaN where it is missing.

    Raises:
        ValueError: It is neither, or it is infinite. Python's digit separator is refused.
    """
    if is_missing(cell):
        return math.nan
    value = float(cell)
    if "_" in cell or not math.isfinite(value):
        raise ValueError(cell)
    return value


def plain_number(value: float) -> str:
    """Return the shortest text of a number; an integer has no point.

    >>> plain_number(3.0), plain_number(2.5)
    ('3', '2.5')
    """
    return str(int(value)) if value.is_integer() else repr(value)


def shorten(value: object) -> str:
    """Return a cell as a message shows it: quoted, and at most 40 characters of it."""
    text = str(value)
    return f"`{text if len(text) <= 40 else text[:39] + '…'}`"


def _is_number(cell: str) -> bool:
    """Return whether a cell is a number and not missing."""
    try:
        return not math.isnan(parse_number(cell))
    except ValueError:
        return False


def _parse(cells: Cells) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return strings as numbers, and which of them are none; the usual column in one pass."""
    bad = np.zeros(len(cells), np.bool_)
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))
        if not np.isinf(values).any() and not any("_" in c for c in cells):
            return values, bad
    except ValueError:
        pass
    values = np.empty(len(cells), np.float64)
    for row, cell in enumerate(cells):
        try:
            values[row] = parse_number(cell)
        except ValueError:
            values[row], bad[row] = math.nan, True
    return values, bad


def _read_csv(path: Path, header: bool | Sequence[str] | None) -> Table:
    """Return a text file's cells as strings."""
    rows: list[list[str]] = []
    lines: list[int] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line, row in _rows(file, path):
            if rows and len(row) != len(rows[0]):
                raise CorruptRow(
                    f"{path}, line {line}: cells in this row: {len(row)}, expected "
                    f"{len(rows[0])} as in line {lines[0]}; the last is in column {len(row)}"
                )
            rows.append(row)
            lines.append(line)
    if not rows:
        raise EmptyClient(f"{path}: the file is empty, expected one row per example")
    named = _is_header(rows[0], header)
    width = len(rows[0])
    names = tuple(c.strip() for c in rows[0]) if named else _numbered(width)
    _check_names(names, path)
    body = rows[1:] if named else rows
    columns = tuple(_objects([row[i] for row in body]) for i in range(width))
    return Table(names, columns, str(path), np.array(lines[int(named) :], np.int64), named)


def _rows(file: TextIO, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row that is not blank starts, and its cells."""
    line = 1
    try:
        delimiter = _delimiter(file.readline())
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter, strict=True, skipinitialspace=True)
        for row in reader:
            if len(row) > 1 or (row and row[0].strip()):
                yield line, row
            line = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, at or after line {line}: not UTF-8 text",
            hint="save it as UTF-8, or give a Parquet file the suffix .parquet",
        ) from error
    except csv.Error as error:
        raise CorruptRow(f"{path}, line {line}: {error}") from error


def _delimiter(line: str) -> str:
    """Return what separates the cells of a file with this first line."""
    return next((d for d in ",\t;" if d in line), ",")


def _is_header(row: list[str], header: bool | Sequence[str] | None) -> bool:
    """Return whether a file's first row names its columns."""
    if isinstance(header, bool):
        return header
    if header is not None and {c.strip() for c in row} & set(header):
        return True
    return not any(map(_is_number, row)) and not all(map(is_missing, row))


def _numbered(width: int) -> tuple[str, ...]:
    """Return the names of the columns of a file without a header."""
    return tuple(str(i + 1) for i in range(width))


def _check_names(names: Sequence[str], path: Path) -> None:
    """Raise `DataError` where two columns have one name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{path}: column name `{name}` is used twice")
        seen.add(name)


def _objects(cells: list[str]) -> Cells:
    """Return strings as an object array; numpy alone would make it as wide as the longest."""
    out = np.empty(len(cells), object)
    out[:] = cells
    return out


def _read_parquet(path: Path) -> Table:
    """Return a Parquet file's columns."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra(
            f"{path}: reading Parquet needs pyarrow", hint="pip install 'choral[parquet]'"
        ) from error
    try:
        found = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read as Parquet: {reason}") from error
    if not found.num_rows:
        raise EmptyClient(f"{path}: the file has no rows, expected one per example")
    names = tuple(found.column_names)
    _check_names(names, path)
    columns = tuple(_from_arrow(found.column(i), path, name) for i, name in enumerate(names))
    return Table(names, columns, str(path), np.arange(1, found.num_rows + 1), True, "row")


def _from_arrow(column: Any, path: Path, name: str) -> Cells:
    """Return one Arrow column as a column of a table."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _objects([c if c is not None else "" for c in column.to_pylist()])
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise DataError(
            f"{path}: column `{name}` has type {kind}, expected numbers, booleans or text"
        )
    values = column.cast(pa.float64(), safe=False).to_numpy()
    return np.asarray(values, np.float64)
