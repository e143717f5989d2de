"""The declared shape of local data: columns, types, units, classes, target and version.

A schema says nothing about values, so that its fingerprint can be shown to others: sites agree that
they hold the same columns without showing a cell.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from choral.core.canonical import canonical_json, digest_of
from choral.core.checks import whole
from choral.core.errors import ConfigError, SchemaMismatch, UnknownKey, UnknownName, did_you_mean
from choral.data.tables import Table, is_missing, plain_number

BOOLEANS: Final = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "1": 1.0, "0": 0.0}
"""Cells of a boolean column, in lower case."""

MAX_CLASSES: Final = 32
"""Distinct texts up to which `Schema.infer` calls a column a category."""

MAX_NAME: Final = 256
"""Characters of a name, a unit or a class in a schema that came over a network."""


class ColumnType(enum.StrEnum):
    """What the cells of a column are."""

    NUMBER = "number"
    """Real numbers."""
    INTEGER = "integer"
    """Whole numbers."""
    CATEGORY = "category"
    """One of the declared classes; a feature of this type becomes one 0/1 feature per class."""
    TEXT = "text"
    """Anything; carried in the file, never a feature."""
    BOOLEAN = "boolean"
    """True or false, yes or no, 1 or 0."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: Unique in its schema.
        type: What its cells are.
        unit: Unit of measurement, such as `mmHg`, or None.
        classes: The classes of a category in the order of their features; None for other types.
    """

    name: str
    type: ColumnType
    unit: str | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.type not in set(ColumnType):
            raise UnknownName(
                f"column `{self.name}`: unknown type `{self.type}`",
                hint=did_you_mean(str(self.type), list(ColumnType)),
            )
        object.__setattr__(self, "type", ColumnType(self.type))
        if (self.type is ColumnType.CATEGORY) != bool(self.classes):
            raise ConfigError(
                f"column `{self.name}` of type {self.type} with classes {self.classes}",
                hint="a category, and only a category, lists its classes",
            )
        if self.classes and len({class_text(c) for c in self.classes}) != len(self.classes):
            raise ConfigError(f"column `{self.name}`: a class is listed twice: {self.classes}")


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a table.

    Attributes:
        columns: In order; a file without a header has them in this order.
        target: Name of the column to predict.
        version: Version of this schema, at least 1.

    >>> schema = Schema((Column("age", "number", "years"), Column("ill", "integer")), "ill")
    >>> schema.diff(Schema((Column("age", "number"), Column("ill", "integer")), "ill"))
    ['column `age`: unit years, expected none']
    """

    columns: tuple[Column, ...]
    target: str
    version: int = 1

    def __post_init__(self) -> None:
        names = self.names
        if len(set(names)) < len(names):
            twice = sorted({n for n in names if names.count(n) > 1})
            raise ConfigError(f"schema names column `{twice[0]}` twice")
        if self.target not in names:
            raise ConfigError(
                f"target `{self.target}` is not a column", hint=did_you_mean(self.target, names)
            )
        object.__setattr__(self, "version", whole("schema version", self.version, least=1))

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(c.name for c in self.columns)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, types, units, classes, target and version, in hexadecimal.

        The order of columns and of classes counts, since it is the order of the features. No value
        of any row goes in.
        """
        return digest_of(self._stated())

    def to_json(self) -> bytes:
        """Return this schema as canonical JSON, whose SHA-256 is the fingerprint."""
        return canonical_json(self._stated())

    def _stated(self) -> dict[str, Any]:
        return {
            "columns": [
                [c.name, c.type.value, c.unit, list(c.classes) if c.classes else None]
                for c in self.columns
            ],
            "target": self.target,
            "version": self.version,
        }

    @staticmethod
    def from_json(raw: bytes) -> Schema:
        """Return the schema that somebody else's `to_json` wrote.

        Raises:
            ConfigError: These are no bytes that it writes, or a text in them is longer than 256
                characters or not printable.
        """
        try:
            body = json.loads(raw)
            columns = tuple(Column(*_stated_column(entry)) for entry in body["columns"])
            schema = Schema(columns, body["target"], body["version"])
            same = schema.to_json() == raw
        except (ValueError, TypeError, LookupError, RecursionError):
            same = False
        if not same:
            raise ConfigError(f"{len(raw)} bytes that are no schema in canonical JSON")
        return schema

    def diff(self, other: Schema) -> list[str]:
        """Return how this schema differs from the expected `other`; empty where they are equal."""
        found = _columns_apart(self.names, other.names)
        theirs = {c.name: c for c in other.columns}
        for column in self.columns:
            expected = theirs.get(column.name)
            if expected is None:
                continue
            for field in ("type", "unit", "classes"):
                mine, wanted = getattr(column, field), getattr(expected, field)
                if mine != wanted:
                    found.append(
                        f"column `{column.name}`: {field} {_show(mine)}, expected {_show(wanted)}"
                    )
        if not found and self.names != other.names:
            found.append(f"columns in the order {_show(self.names)}, expected {_show(other.names)}")
        for field in ("target", "version"):
            mine, wanted = getattr(self, field), getattr(other, field)
            if mine != wanted:
                found.append(f"{field} {mine}, expected {wanted}")
        return found

    def check(self, table: Table) -> tuple[int, ...]:
        """Return where each column of this schema is in `table`.

        Args:
            table: One with a header may have its columns in any order; one without must have as
                many columns as the schema.

        Raises:
            SchemaMismatch: Columns are missing or unexpected; the message names them all.
        """
        if table.named:
            wrong = _columns_apart(table.names, self.names)
            if wrong:
                raise SchemaMismatch(f"{table.path}: " + "; ".join(wrong))
            return tuple(table.names.index(n) for n in self.names)
        if len(table.names) != len(self.names):
            raise SchemaMismatch(
                f"{table.path}: columns in the file: {len(table.names)}, expected "
                f"{len(self.names)}: {_show(self.names)}",
                hint="the file has no header, so its columns are taken in the schema's order",
            )
        return tuple(range(len(self.names)))

    def to_yaml(self, path: str | Path | None = None) -> str:
        """Return this schema as YAML, and write it to `path` where one is given."""
        import yaml

        columns = []
        for c in self.columns:
            entry: dict[str, Any] = {"name": c.name, "type": c.type.value}
            if c.unit is not None:
                entry["unit"] = c.unit
            if c.classes is not None:
                entry["classes"] = list(c.classes)
            columns.append(entry)
        body = {"version": self.version, "target": self.target, "columns": columns}
        text = yaml.safe_dump(body, sort_keys=False, allow_unicode=True)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @staticmethod
    def from_yaml(path: str | Path) -> Schema:
        """Return the schema in a YAML file.

        Raises:
            ConfigError: The file is absent, is not YAML, or is not a schema; an unknown key or
                type is answered with the nearest known one.
        """
        import yaml

        try:
            body = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"schema {path} cannot be read: {error}") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"schema {path} is not YAML: {error}") from error
        try:
            return _schema_from(body)
        except ConfigError as error:
            raise type(error)(f"schema {path}: {error.message}", hint=error.hint) from error

    @staticmethod
    def infer(table: Table, *, target: str | None = None, version: int = 1) -> Schema:
        """Return a first schema for a table, for its owner to correct.

        Args:
            table: At least one row.
            target: Column to predict; the last one by default.
            version: Version of the schema.

        Returns:
            Whole numbers as `integer`, other numbers as `number`, true/false or yes/no as
            `boolean`, up to 32 distinct texts as `category` with sorted classes, else `text`.
        """
        name = table.names[-1] if target is None else table.names[table.index(target)]
        columns = tuple(_infer_column(table, i) for i in range(len(table.names)))
        return Schema(columns, name, version)


def class_text(cell: str) -> str:
    """Return the text by which a cell and a class are compared: `3.0` and `3` are one class.

    >>> class_text("3.0"), class_text(" north ")
    ('3', 'north')
    """
    text = cell.strip()
    if re.fullmatch(r"[+-]?\d{1,15}(\.\d{0,15})?", text):
        return plain_number(float(text))
    return text


def _columns_apart(names: tuple[str, ...], expected: tuple[str, ...]) -> list[str]:
    """Return which columns are missing and which are not expected."""
    here, wanted = set(names), set(expected)
    missing = [n for n in expected if n not in here]
    extra = [n for n in names if n not in wanted]
    return [f"column `{n}` is missing" for n in missing] + [
        f"column `{n}` is not expected" for n in extra
    ]


def _show(value: Any) -> str:
    """Return a field of a column as a message shows it."""
    if isinstance(value, tuple):
        return ", ".join(value)
    return "none" if value is None else str(value)


def _schema_from(body: Any) -> Schema:
    """Return a schema from parsed YAML."""
    keys = {"version", "target", "columns"}
    _check_keys(body, keys, "a schema")
    if "target" not in body or not isinstance(body.get("columns"), list):
        raise ConfigError("expected `target` and a list of `columns`")
    columns = tuple(_column_from(entry) for entry in body["columns"])
    return Schema(columns, str(body["target"]), body.get("version", 1))


def _column_from(entry: Any) -> Column:
    """Return a column from parsed YAML."""
    _check_keys(entry, {"name", "type", "unit", "classes"}, "a column")
    if "name" not in entry or "type" not in entry:
        raise ConfigError(f"column {entry}: expected at least `name` and `type`")
    name = str(entry["name"])
    classes = entry.get("classes")
    if classes is not None and (
        not isinstance(classes, list) or not all(type(c) in (str, int) for c in classes)
    ):
        raise ConfigError(
            f"column `{name}`: classes {classes}, expected a list of texts or integers",
            hint="put yes, no, on, off and numbers with a point in quotes",
        )
    unit = entry.get("unit")
    return Column(
        name,
        entry["type"],
        None if unit is None else str(unit),
        None if classes is None else tuple(str(c) for c in classes),
    )


def _stated_column(entry: Any) -> tuple[str, ColumnType, str | None, tuple[str, ...] | None]:
    """Return the fields of a column in canonical JSON; raise `ValueError` where it is none."""
    name, kind, unit, classes = entry
    texts = [name, *([] if unit is None else [unit]), *(classes or ())]
    if not all(isinstance(t, str) and len(t) <= MAX_NAME and t.isprintable() for t in texts):
        raise ValueError(name)
    return name, ColumnType(kind), unit, None if classes is None else tuple(classes)


def _check_keys(body: Any, known: set[str], what: str) -> None:
    """Raise unless `body` is a mapping with known keys only."""
    if not isinstance(body, Mapping):
        raise ConfigError(f"{what} is {type(body).__name__}, expected a mapping")
    for key in body:
        if key not in known:
            raise UnknownKey(f"unknown key `{key}` in {what}", hint=did_you_mean(str(key), known))


def _infer_column(table: Table, index: int) -> Column:
    """Return the narrowest type that holds all cells of a column."""
    name = table.names[index]
    texts = [t for t in table.texts(index) if not is_missing(t)]
    if texts and all(t.lower() in BOOLEANS and not t.isdigit() for t in texts):
        return Column(name, ColumnType.BOOLEAN)
    numbers = _all_numbers(texts)
    if numbers is not None:
        whole = bool(np.all(numbers == np.floor(numbers)))
        return Column(name, ColumnType.INTEGER if whole else ColumnType.NUMBER)
    classes = sorted({class_text(t) for t in texts})
    if len(classes) <= MAX_CLASSES:
        return Column(name, ColumnType.CATEGORY, None, tuple(classes))
    return Column(name, ColumnType.TEXT)


def _all_numbers(texts: list[str]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Return texts as finite numbers, or None where one of them is not."""
    try:
        values = np.array([float(t) for t in texts], np.float64)
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None
