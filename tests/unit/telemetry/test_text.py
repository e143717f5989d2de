"""Text is escaped and printable; numbers are written for people, and never as NaN."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choral.telemetry.text import (
    BLANK,
    LARGEST,
    duration,
    finite,
    number,
    percent,
    plain,
    size,
    size_unit,
    whole,
)

NO_NUMBERS = (None, math.nan, math.inf, -math.inf, "4", True, [], 10**400, 1e301)


@given(st.text(st.characters(), max_size=60))
def test_plain_text_has_no_markup_and_can_be_encoded(value: str) -> None:
    found = plain(value)
    found.encode()
    assert not set(found) & set("<>\"'\x00\x1b\u202e\u2066\r")
    left = found
    for entity in ("&lt;", "&gt;", "&amp;", "&quot;", "&#x27;"):
        left = left.replace(entity, "")
    assert "&" not in left


def test_plain_text_by_hand() -> None:
    assert plain("<a href='x'>&") == "&lt;a href=&#x27;x&#x27;&gt;&amp;"
    assert plain("a\nb\tc Ärzte 病院") == "a\nb\tc Ärzte 病院"
    assert plain("a\x00\u202eb\ud800") == "a\ufffd\ufffdb\ufffd"


def test_long_text_is_cut_before_it_is_escaped() -> None:
    assert plain("<" * 500, limit=3) == "&lt;&lt;…"
    assert plain("abc", limit=3) == "abc"


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_finite_number_is_blank(value: object) -> None:
    assert finite(value) is None
    assert whole(value) == 0
    assert {f(value) for f in (number, percent, size, duration)} == {BLANK}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12345, "12,345"),
        (-3, "-3"),
        (10**15, "1e+15"),
        (0.0, "0.0000"),
        (0.75197, "0.7520"),
        (-0.5, "-0.5000"),
        (123.456, "123.4560"),
        (1234.56, "1,234.6"),
        (0.00012345, "0.000123"),
        (1.5e8, "1.5e+08"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1605, "1.60 kB"),
        (56_000, "56.0 kB"),
        (1_000_000, "1.00 MB"),
        (5e15, "5,000 TB"),
    ],
)
def test_sizes(value: float, text: str) -> None:
    assert size(value) == text


def test_the_unit_of_a_size_is_its_power_of_a_thousand() -> None:
    units = [size_unit(10.0**power)[0] for power in range(16)]
    assert units == [*["B"] * 3, *["kB"] * 3, *["MB"] * 3, *["GB"] * 3, *["TB"] * 4]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 ms"),
        (0.999, "999 ms"),
        (0.9999, "1.0 s"),
        (59.9, "59.9 s"),
        (59.99, "1 min 0 s"),
        (192, "3 min 12 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations(value: float, text: str) -> None:
    assert duration(value) == text


@given(st.floats())
def test_every_float_is_written_without_nan(value: float) -> None:
    for write in (number, percent, size, duration):
        assert "nan" not in write(value).lower()
        assert "inf" not in write(value).lower()
    assert (finite(value) is None) == (math.isnan(value) or abs(value) > LARGEST)
