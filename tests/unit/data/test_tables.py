import builtins

import numpy as np
import pytest

from choral.core.errors import CorruptRow, DataError, EmptyClient, MissingExtra
from choral.data import read_table


def _write(folder, text, name="a.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_header_is_found_and_lines_are_those_of_an_editor(tmp_path):
    table = read_table(_write(tmp_path, "age,ill\n\n63,0\n41,1\n"))
    assert table.names == ("age", "ill")
    assert table.named
    assert table.lines.tolist() == [3, 4]
    assert table.numbers(0).tolist() == [63.0, 41.0]


def test_a_file_without_header_has_numbered_columns(tmp_path):
    table = read_table(_write(tmp_path, "63.0,?,0\n41,.5,1\n"))
    assert table.names == ("1", "2", "3")
    assert not table.named
    assert len(table) == 2
    assert np.isnan(table.numbers(1)[0])
    assert table.numbers(1)[1] == 0.5


def test_a_corrupt_first_row_is_no_header(tmp_path):
    table = read_table(_write(tmp_path, "63,abc,0\n41,2,1\n"))
    assert len(table) == 2
    with pytest.raises(CorruptRow, match=r"a\.csv, line 1, column 2: `abc` is not a finite") as e:
        table.numbers(1)
    assert "header" in e.value.hint


def test_a_first_row_of_missing_cells_is_no_header(tmp_path):
    assert len(read_table(_write(tmp_path, "?,NA\n1,2\n"))) == 2


@pytest.mark.parametrize(("header", "rows"), [(True, 1), (False, 2), (["x"], 2), (["b"], 1)])
def test_the_caller_can_say_what_the_first_row_is(tmp_path, header, rows):
    text = "1,b\n2,3\n" if header != ["x"] else "1,4\n2,3\n"
    assert len(read_table(_write(tmp_path, text), header=header)) == rows


@pytest.mark.parametrize("token", ["", "?", "NA", "n/a", "NaN", "nan", " null ", "None", "#N/A"])
def test_missing_tokens(tmp_path, token):
    assert np.isnan(read_table(_write(tmp_path, f"1,2\n{token},3\n")).numbers(0)[1])


@pytest.mark.parametrize("cell", ["abc", "inf", "-Infinity", "1_000", "1e999", "0x10", "1;2"])
def test_cells_that_are_no_number_name_their_place(tmp_path, cell):
    table = read_table(_write(tmp_path, f"age,ill\n1,0\n2,1\n{cell},1\n"))
    with pytest.raises(CorruptRow, match=r"a\.csv, line 4, column 1 \(`age`\)"):
        table.numbers(0)


def test_long_cells_are_cut_in_messages(tmp_path):
    table = read_table(_write(tmp_path, "1,2\n" + "x" * 500 + ",3\n"))
    with pytest.raises(CorruptRow) as error:
        table.numbers(0)
    assert len(str(error.value)) < 400


def test_a_column_of_texts_gets_the_hint_about_schemas(tmp_path):
    table = read_table(_write(tmp_path, "sex,ill\nf,0\nm,1\n"))
    with pytest.raises(CorruptRow) as error:
        table.numbers(0)
    assert "schema" in error.value.hint


def test_ragged_rows_name_their_line(tmp_path):
    with pytest.raises(CorruptRow, match=r"a\.csv, line 4: cells in this row: 2, expected 3"):
        read_table(_write(tmp_path, "a,b,c\n1,2,3\n\n4,5\n"))


def test_lines_count_breaks_inside_quotes(tmp_path):
    text = 'note,x\n"two\nlines",1\nplain,zzz\n'
    table = read_table(_write(tmp_path, text))
    assert table.texts(0) == ["two\nlines", "plain"]
    assert table.lines.tolist() == [2, 4]


def test_quotes_that_do_not_close_name_their_line(tmp_path):
    with pytest.raises(CorruptRow, match="line 2"):
        read_table(_write(tmp_path, 'a,b\n"1,2\n3,4\n'))


@pytest.mark.parametrize("text", ["a;b\n1;2\n", "a\tb\n1\t2\n", "\ufeffa,b\r\n1,2\r\n"])
def test_separators_marks_and_line_ends(tmp_path, text):
    table = read_table(_write(tmp_path, text))
    assert table.names == ("a", "b")
    assert table.numbers(1).tolist() == [2.0]


@pytest.mark.parametrize("text", ["", "\n\n", "  \n"])
def test_empty_files(tmp_path, text):
    with pytest.raises(EmptyClient, match=r"a\.csv"):
        read_table(_write(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(DataError, match="UTF-8"):
        read_table(_write(tmp_path, "a,b\n1,é\n", encoding="latin-1"))
    with pytest.raises(DataError, match="`a` is used twice"):
        read_table(_write(tmp_path, "a,a\n1,2\n"))


def test_an_unknown_column_is_answered_with_the_nearest(tmp_path):
    table = read_table(_write(tmp_path, "weight,height\n1,2\n"))
    with pytest.raises(DataError, match="did you mean `weight`"):
        table.index("wieght")
    with pytest.raises(DataError, match='called "1" to "2"'):
        read_table(_write(tmp_path, "1,2\n")).index("weight")


def test_parquet_reads_like_csv(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    columns = {
        "age": pa.array([63, None, 41]),
        "bp": pa.array([1.5, 2.5, None]),
        "sex": pa.array(["f", None, "m"]).dictionary_encode(),
        "ill": pa.array([True, False, True]),
    }
    pq.write_table(pa.table(columns), path)
    table = read_table(path)
    assert table.names == ("age", "bp", "sex", "ill")
    assert np.array_equal(table.numbers(0), [63, np.nan, 41], equal_nan=True)
    assert np.array_equal(table.numbers(1), [1.5, 2.5, np.nan], equal_nan=True)
    assert table.texts(2) == ["f", "", "m"]
    assert table.numbers(3).tolist() == [1, 0, 1]
    assert table.texts(0) == ["63", "", "41"]
    with pytest.raises(CorruptRow, match=r"a\.parquet, row 1, column 3 \(`sex`\)"):
        table.numbers(2)


def test_parquet_that_cannot_be_used(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    broken = _write(tmp_path, "not parquet at all", "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as Parquet"):
        read_table(broken)
    pq.write_table(pa.table({"x": pa.array([[1], [2]])}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="column `x` has type list"):
        read_table(tmp_path / "b.parquet")
    pq.write_table(pa.table({"x": pa.array([], pa.int64())}), tmp_path / "c.parquet")
    with pytest.raises(EmptyClient):
        read_table(tmp_path / "c.parquet")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra) as error:
        read_table(_write(tmp_path, "", "a.parquet"))
    assert error.value.hint == "pip install 'choral[parquet]'"
