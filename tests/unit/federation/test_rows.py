"""Rows kept as text come back as they were, and take little memory."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choral.federation.rows import Rows

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(), VALUES), max_size=8))
def test_rows_come_back_as_they_were(given_rows):
    rows = Rows()
    for row in given_rows:
        rows.append(row)
    assert list(rows) == given_rows
    assert rows[2:5] == tuple(given_rows[2:5])
    assert [list(row) for row in rows] == [list(row) for row in given_rows]


def test_what_is_read_is_a_copy():
    rows = Rows()
    rows.append({"metrics": {"loss": 1.0}})
    rows[-1]["metrics"]["loss"] = 2.0
    assert rows[0] == {"metrics": {"loss": 1.0}}
    rows.replace_last({"metrics": {"loss": 3.0}})
    assert rows[-1] == {"metrics": {"loss": 3.0}}
    with pytest.raises(IndexError):
        rows[1]


def test_a_thousand_rounds_take_less_than_half_a_megabyte():
    rows = Rows()
    tracemalloc.start()
    try:
        for number in range(1000):
            rows.append(
                {
                    "round": number,
                    "attempt": 1,
                    "selected": 20,
                    "completed": 19,
                    "dropped": 1,
                    "weight": 19.0,
                    "update_norm": {"mean": 1.0 / (number + 1), "max": 1.0 / (number + 2)},
                    "bytes_up": 123456,
                    "bytes_down": 123456,
                    "metrics": {"train_loss": 0.1 / (number + 3), "sum": float(number)},
                    "duration_s": 0.5 / (number + 1),
                    "model_sha256": f"{number:064x}",
                }
            )
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 500_000
