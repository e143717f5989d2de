import hashlib
from dataclasses import FrozenInstanceError, replace

import pytest

from choral.core.canonical import canonical_json
from choral.core.errors import ConfigError, SchemaMismatch, UnknownKey, UnknownName
from choral.data import Column, ColumnType, Schema, read_table

HEART = Schema(
    (
        Column("age", "number", "years"),
        Column("sex", "category", None, ("f", "m")),
        Column("stents", "integer"),
        Column("smoker", "boolean"),
        Column("note", "text"),
        Column("ill", "integer"),
    ),
    "ill",
    2,
)


def test_yaml_round_trip(tmp_path):
    path = tmp_path / "schema.yaml"
    text = HEART.to_yaml(path)
    assert path.read_text() == text
    assert Schema.from_yaml(path) == HEART
    assert Schema.from_yaml(path).fingerprint == HEART.fingerprint


def test_schema_is_frozen_and_types_are_parsed():
    assert HEART.columns[0].type is ColumnType.NUMBER
    with pytest.raises(FrozenInstanceError):
        HEART.version = 3


def _changed(index, **fields):
    columns = list(HEART.columns)
    columns[index] = replace(columns[index], **fields)
    return replace(HEART, columns=tuple(columns))


CHANGES = {
    "name": (_changed(0, name="years"), ["column `age` is missing", "column `years` is not exp"]),
    "type": (_changed(0, type="integer"), ["column `age`: type integer, expected number"]),
    "unit": (_changed(0, unit="months"), ["column `age`: unit months, expected years"]),
    "classes": (_changed(1, classes=("m", "f")), ["column `sex`: classes m, f, expected f, m"]),
    "order": (
        replace(HEART, columns=HEART.columns[::-1]),
        ["columns in the order ill, note, smoker, stents, sex, age, expected age, sex"],
    ),
    "target": (replace(HEART, target="smoker"), ["target smoker, expected ill"]),
    "version": (replace(HEART, version=3), ["version 3, expected 2"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_shows_in_the_fingerprint_and_in_the_diff(change):
    other, lines = CHANGES[change]
    assert other.fingerprint != HEART.fingerprint
    found = other.diff(HEART)
    assert len(found) == len(lines)
    assert all(f.startswith(line) for f, line in zip(found, lines, strict=True))


def test_equal_schemas_do_not_differ():
    again = replace(HEART, version=2)
    assert again.diff(HEART) == []
    assert len(again.fingerprint) == 64


def test_a_schema_travels_as_the_bytes_that_its_fingerprint_is_over():
    raw = HEART.to_json()
    assert hashlib.sha256(raw).hexdigest() == HEART.fingerprint
    assert Schema.from_json(raw) == HEART


def stated(*columns, target="x", version=1):
    return canonical_json({"columns": list(columns), "target": target, "version": version})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 60_000,
        stated(["x", "number", None, None]) + b" ",
        stated(["x", "number", None, None], target="z"),
        stated(["x", "number", None, None], version=0),
        stated(["x", "number", None, None], version=True),
        stated(["x", "number", None]),
        stated(["x", "number", 5, None]),
        stated(["x", "numbre", None, None]),
        stated(["x", [], None, None]),
        stated(["x", "category", None, "ab"]),
        stated(["x", "category", None, 5]),
        stated(["x", "category", None, []]),
        stated(["x" * 257, "number", None, None], target="x" * 257),
        stated(["x", "number", "\x1b[31m", None]),
        stated(5),
        b'{"columns":[["\\ud800","number",null,null]],"target":"\\ud800","version":1}',
        stated(["x", "number", None, None])[:-1] + b',"rows":[1]}',
    ],
)
def test_bytes_that_are_no_schema(raw):
    with pytest.raises(ConfigError):
        Schema.from_json(raw)


def test_a_very_wide_schema_is_compared_in_no_time():
    names = [f"c{i}" for i in range(3000)]
    wide = Schema(tuple(Column(n, "text") for n in names), "c0")
    other = Schema(tuple(Column(n + "x", "text") for n in names), "c0x")
    assert len(wide.diff(other)) == 6001


def test_fingerprint_is_pinned():
    small = Schema((Column("x", "number", "cm"), Column("y", "integer")), "y")
    assert small.fingerprint == ("b9fa3cc99ee50233de2fd877826457e9985df44069e11dd17613524a64f66430")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Column("x", "numbre"), UnknownName, "did you mean `number`"),
        (lambda: Column("x", "category"), ConfigError, "lists its classes"),
        (lambda: Column("x", "number", None, ("a",)), ConfigError, "lists its classes"),
        (lambda: Column("x", "category", None, ("1", "1.0")), ConfigError, "listed twice"),
        (lambda: Schema((Column("x", "number"),), "z"), ConfigError, "target `z`"),
        (lambda: Schema((Column("x", "number"),) * 2, "x"), ConfigError, "column `x` twice"),
        (lambda: Schema((Column("x", "number"),), "x", 0), ConfigError, "version 0"),
    ],
)
def test_wrong_schemas(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("target: x\ncolums: []\n", UnknownKey, "did you mean `columns`"),
        (
            "target: x\ncolumns: [{name: x, type: number, units: cm}]\n",
            UnknownKey,
            "did you mean `unit`",
        ),
        ("target: x\ncolumns: [{name: x}]\n", ConfigError, "`name` and `type`"),
        ("columns: []\n", ConfigError, "expected `target`"),
        ("[1, 2]\n", ConfigError, "expected a mapping"),
        ("a: [\n", ConfigError, "is not YAML"),
        (
            "target: x\ncolumns: [{name: x, type: category, classes: [yes, no]}]\n",
            ConfigError,
            "in quotes",
        ),
    ],
)
def test_wrong_files_name_the_file(tmp_path, text, error, message):
    path = tmp_path / "schema.yaml"
    path.write_text(text)
    with pytest.raises(error, match=message) as caught:
        Schema.from_yaml(path)
    assert "schema.yaml" in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Schema.from_yaml(tmp_path / "none.yaml")


def _table(folder, text):
    path = folder / "a.csv"
    path.write_text(text)
    return read_table(path)


def test_infer_takes_the_narrowest_type(tmp_path):
    table = _table(
        tmp_path,
        "age,kids,sex,smoker,ward,ill\n63.5,2,m,yes,3,1\n41,?,f,no,3,0\n50,1,m,?,2,1\n",
    )
    schema = Schema.infer(table)
    assert [(c.name, c.type.value, c.classes) for c in schema.columns] == [
        ("age", "number", None),
        ("kids", "integer", None),
        ("sex", "category", ("f", "m")),
        ("smoker", "boolean", None),
        ("ward", "integer", None),
        ("ill", "integer", None),
    ]
    assert schema.target == "ill"
    assert Schema.infer(table, target="age").target == "age"


def test_infer_calls_many_texts_text(tmp_path):
    rows = "".join(f"note {i},{i}\n" for i in range(33))
    assert Schema.infer(_table(tmp_path, "note,y\n" + rows)).columns[0].type == "text"


def test_check_finds_columns_in_any_order(tmp_path):
    schema = Schema((Column("a", "number"), Column("b", "number")), "b")
    assert schema.check(_table(tmp_path, "b,a\n1,2\n")) == (1, 0)
    assert schema.check(_table(tmp_path, "1,2\n")) == (0, 1)


def test_check_names_all_columns_that_differ(tmp_path):
    schema = Schema((Column("a", "number"), Column("b", "number")), "b")
    with pytest.raises(SchemaMismatch) as error:
        schema.check(_table(tmp_path, "b,c,d\n1,2,3\n"))
    assert str(error.value).endswith(
        "a.csv: column `a` is missing; column `c` is not expected; column `d` is not expected"
    )
    with pytest.raises(SchemaMismatch, match="columns in the file: 3, expected 2: a, b"):
        schema.check(_table(tmp_path, "1,2,3\n"))
