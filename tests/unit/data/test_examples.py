import numpy as np
import pytest

from choral.core.errors import ConfigError, CorruptRow, DataError, EmptyClient, SchemaMismatch
from choral.data import Column, Schema, encode, read_examples, read_table


def _write(folder, text, name="a.csv"):
    path = folder / name
    path.write_text(text)
    return path


def test_last_column_is_the_target(tmp_path):
    x, y = read_examples(_write(tmp_path, "a,b,ill\n1,2.5,0\n3,4,1\n"))
    assert x.dtype == np.float32
    assert x.tolist() == [[1, 2.5], [3, 4]]
    assert y.dtype == np.int64
    assert y.tolist() == [0, 1]


def test_a_real_target_is_float32(tmp_path):
    _, y = read_examples(_write(tmp_path, "1,0\n2,1.5\n"))
    assert y.dtype == np.float32
    assert y.tolist() == [0, 1.5]


def test_another_target_by_name(tmp_path):
    x, y = read_examples(_write(tmp_path, "a,b,c\n1,2,3\n"), target="b")
    assert (x.tolist(), y.tolist()) == ([[1, 3]], [2])
    x, y = read_examples(_write(tmp_path, "1,2,3\n"), target="1")
    assert (x.tolist(), y.tolist()) == ([[2, 3]], [1])


def test_missing_values_are_named_or_dropped(tmp_path):
    path = _write(tmp_path, "a,b,ill\n1,2,0\n3,?,1\n5,6,\n7,8,1\n")
    with pytest.raises(CorruptRow, match=r"line 3, column 2 \(`b`\): the value is missing"):
        read_examples(path)
    x, y = read_examples(path, missing="drop")
    assert x.tolist() == [[1, 2], [7, 8]]
    assert y.tolist() == [0, 1]
    with pytest.raises(ConfigError, match="did you mean `drop`"):
        read_examples(path, missing="dropp")


def test_a_missing_target_is_named(tmp_path):
    with pytest.raises(CorruptRow, match=r"line 2, column 2 \(`ill`\): the value is missing"):
        read_examples(_write(tmp_path, "a,ill\n1,\n"))


def test_values_beyond_float32_name_their_place(tmp_path):
    with pytest.raises(CorruptRow, match=r"line 3, column 2: the number is beyond float32"):
        read_examples(_write(tmp_path, "1,2,0\n1,?,0\n1,1e39,0\n"), missing="drop")
    with pytest.raises(CorruptRow, match=r"line 2, column 2: .*beyond float32"):
        read_examples(_write(tmp_path, "1,0.5\n1,1e39\n"))


def test_nothing_to_read(tmp_path):
    for text in ("a,b\n", "a,b\n?,1\n2,?\n"):
        with pytest.raises(EmptyClient, match=r"a\.csv"):
            read_examples(_write(tmp_path, text), missing="drop")
    with pytest.raises(DataError, match="no feature beside the target"):
        read_examples(_write(tmp_path, "a\n1\n"))


SCHEMA = Schema(
    (
        Column("ward", "category", None, ("south", "north", "3")),
        Column("age", "integer", "years"),
        Column("note", "text"),
        Column("smoker", "boolean"),
        Column("ill", "category", None, ("no", "yes")),
    ),
    "ill",
)


def test_schema_orders_features_and_encodes_classes(tmp_path):
    text = "ill,age,smoker,ward,note\nyes,63,TRUE,north,hi\nno,41,0,3.0,?\n"
    x, y = read_examples(_write(tmp_path, text), schema=SCHEMA)
    assert x.tolist() == [[0, 1, 0, 63, 1], [0, 0, 1, 41, 0]]
    assert y.dtype == np.int64
    assert y.tolist() == [1, 0]


def test_schema_reads_a_file_without_header(tmp_path):
    x, y = read_examples(_write(tmp_path, "north,63,hi,yes,no\n"), schema=SCHEMA)
    assert x.tolist() == [[0, 1, 0, 63, 1]]
    assert y.tolist() == [0]


def test_a_class_may_be_called_none(tmp_path):
    schema = Schema((Column("s", "category", None, ("none", "some")), Column("y", "integer")), "y")
    x, _ = read_examples(_write(tmp_path, "s,y\nnone,1\n"), schema=schema)
    assert x.tolist() == [[1, 0]]


def test_number_targets_stay_real_under_a_schema(tmp_path):
    schema = Schema((Column("a", "number"), Column("y", "number")), "y")
    assert read_examples(_write(tmp_path, "a,y\n1,2\n"), schema=schema)[1].dtype == np.float32


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ("east,1,x,1,no", r"column 1 \(`ward`\): `east` is not one of south, north, 3"),
        ("north,1.5,x,1,no", r"column 2 \(`age`\): `1.5` is not a whole number"),
        ("north,1,x,maybe,no", r"column 4 \(`smoker`\): `maybe` is not one of true, false"),
        ("?,1,x,1,no", r"column 1 \(`ward`\): the value is missing"),
        ("north,1,x,?,no", r"column 4 \(`smoker`\): the value is missing"),
        ("north,1,x,1,perhaps", r"column 5 \(`ill`\): `perhaps` is not one of no, yes"),
    ],
)
def test_cells_that_break_the_schema_name_their_place(tmp_path, row, place):
    with pytest.raises(CorruptRow, match="line 2, " + place):
        read_examples(_write(tmp_path, f"ward,age,note,smoker,ill\n{row}\n"), schema=SCHEMA)


def test_columns_that_break_the_schema(tmp_path):
    path = _write(tmp_path, "ward,age,note,smoking,ill\nnorth,1,x,1,no\n")
    with pytest.raises(SchemaMismatch, match="`smoker` is missing; column `smoking`"):
        read_examples(path, schema=SCHEMA)
    with pytest.raises(ConfigError, match="schema's target is `ill`"):
        read_examples(path, schema=SCHEMA, target="age")
    text = Schema((Column("a", "number"), Column("y", "text")), "y")
    with pytest.raises(DataError, match="declared as text"):
        read_examples(_write(tmp_path, "a,y\n1,b\n"), schema=text)


def test_missing_categories_are_dropped(tmp_path):
    text = "ward,age,note,smoker,ill\n?,1,x,1,no\nsouth,2,x,0,yes\n"
    x, y = read_examples(_write(tmp_path, text), schema=SCHEMA, missing="drop")
    assert x.tolist() == [[1, 0, 0, 2, 0]]
    assert y.tolist() == [1]


def test_parquet_equals_csv(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    columns = {"ward": ["north"], "age": [63], "note": ["x"], "smoker": [True], "ill": ["yes"]}
    pq.write_table(pa.table(columns), path)
    x, y = read_examples(path, schema=SCHEMA)
    assert x.tolist() == [[0, 1, 0, 63, 1]]
    assert y.tolist() == [1]


def test_group_is_no_feature(tmp_path):
    table = read_table(_write(tmp_path, "site,a,y\nx,1,0\n?,2,1\nz,?,1\nx,4,1\n"))
    found = encode(table, group="site", missing="drop")
    assert found.groups == ("x", "x")
    assert found.x.tolist() == [[1], [4]]
    with pytest.raises(CorruptRow, match=r"line 4, column 2"):
        encode(table, group="site")


def test_group_by_the_schema_in_a_file_without_header(tmp_path):
    table = read_table(_write(tmp_path, "north,63,hi,yes,no\n"), header=SCHEMA.names)
    found = encode(table, schema=SCHEMA, group="ward")
    assert found.groups == ("north",)
    assert found.x.tolist() == [[63, 1]]
