"""Values at the edge: what is taken, in which type, and what the refusal says."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choral.core.checks import flag, one_of, real, whole
from choral.core.errors import ConfigError, UnknownName

WHOLE = st.integers(-(10**6), 10**6)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    "value", [3, np.int64(3), np.int8(3), np.uint64(3)], ids=lambda v: type(v).__name__
)
def test_whole_numbers_become_ints(value: Any) -> None:
    found = whole("rounds", value, least=3, most=3)
    assert type(found) is int
    assert found == 3


@pytest.mark.parametrize(
    "value", [True, np.True_, 3.0, np.float32(3), "3", None, [3], Fraction(3)], ids=repr
)
def test_what_is_no_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        whole("rounds", value)
    assert caught.value.message == f"rounds {value!r}: expected a whole number"


@pytest.mark.parametrize(
    ("bounds", "value", "words"),
    [
        ({"least": 1}, 0, "from 1"),
        ({"most": 4}, 5, "to 4"),
        ({"least": 1, "most": 4}, 5, "from 1 to 4"),
        ({"least": 0, "most": 2**63 - 1}, 2**63, "from 0 to 2^63 - 1"),
        ({"least": 0, "most": 2**64 - 1}, -1, "from 0 to 2^64 - 1"),
        ({"least": 1, "most": 1234567}, 0, "from 1 to 1234567"),
    ],
)
def test_bounds_of_whole_numbers(bounds: dict[str, int], value: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        whole("goal", value, **bounds)
    assert caught.value.message == f"goal {value}: expected a whole number {words}"


@given(WHOLE, WHOLE, WHOLE)
def test_a_whole_number_is_taken_exactly_within_its_bounds(value: int, a: int, b: int) -> None:
    least, most = sorted((a, b))
    if least <= value <= most:
        assert whole("n", value, least=least, most=most) == value
    else:
        with pytest.raises(ConfigError):
            whole("n", value, least=least, most=most)


@pytest.mark.parametrize(
    "value",
    [1, 1.0, np.float64(1), np.float32(1), np.float16(1), np.longdouble(1), np.int32(1)],
    ids=lambda v: type(v).__name__,
)
def test_real_numbers_become_floats(value: Any) -> None:
    found = real("lr", value, least=1, most=1)
    assert type(found) is float
    assert found == 1.0


def test_a_float32_keeps_its_value() -> None:
    assert real("lr", np.float32(0.1)) == 0.10000000149011612


def test_zero_has_one_sign() -> None:
    assert math.copysign(1, real("mu", -0.0, least=0)) == 1


@pytest.mark.parametrize(
    "value",
    [
        *(True, np.True_, "0.1", None, [0.1], 1j),
        *(math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf"), 10**400),
    ],
    ids=lambda v: repr(v)[:20],
)
def test_what_is_no_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        real("lr", value)
    assert caught.value.message == f"lr {value!r}: expected a finite number"


@pytest.mark.parametrize(
    ("bounds", "outside", "words"),
    [
        ({"above": 0}, [0, -1, math.inf], "a finite number above 0"),
        ({"least": 0}, [-1, -5e-324], "a finite number of at least 0"),
        ({"below": 1}, [1, 2], "a finite number below 1"),
        ({"most": 1}, [1.5, 2], "a finite number of at most 1"),
        ({"least": 0, "below": 1}, [-1, 1], "a number in [0, 1)"),
        ({"above": 0, "most": 1e6}, [0, 1e7], "a number in (0, 1e6]"),
        ({"least": 0.25, "most": 0.5}, [0.2, 0.6], "a number in [0.25, 0.5]"),
        ({"above": 1e-15, "below": 2}, [1e-15, 2], "a number in (1e-15, 2)"),
        ({"least": 2.0**-20, "most": 2.0**40}, [0, 2.0**41], "a number in [2^-20, 2^40]"),
    ],
    ids=str,
)
def test_bounds_of_numbers(bounds: dict[str, float], outside: list[float], words: str) -> None:
    for value in outside:
        with pytest.raises(ConfigError) as caught:
            real("x", value, **bounds)
        assert caught.value.message == f"x {value!r}: expected {words}"


@given(FINITE, FINITE, FINITE)
def test_a_number_is_taken_exactly_within_its_bounds(value: float, a: float, b: float) -> None:
    low, high = sorted((a, b))
    for bounds, inside in (
        ({"least": low, "most": high}, low <= value <= high),
        ({"above": low, "below": high}, low < value < high),
    ):
        if inside:
            assert real("x", value, **bounds) == value
        else:
            with pytest.raises(ConfigError):
                real("x", value, **bounds)


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_], ids=repr)
def test_truth_values_become_bools(value: Any) -> None:
    assert flag("shuffle", value) is bool(value)


@pytest.mark.parametrize("value", [0, 1, "yes", "true", None, 0.0], ids=repr)
def test_what_is_no_truth_value_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        flag("shuffle", value)
    assert caught.value.message == f"shuffle {value!r}: expected true or false"


def test_a_known_word_is_returned() -> None:
    assert one_of("kind", "b", ("a", "b")) == "b"


@pytest.mark.parametrize(
    ("value", "known", "message", "hint"),
    [
        ("meen", ("mean",), "kind 'meen': expected `mean`", "did you mean `mean`?"),
        (
            "unifrom",
            ("examples", "uniform"),
            "kind 'unifrom': expected `examples` or `uniform`",
            "did you mean `uniform`?",
        ),
        ("q", ("aa", "bb", "cc"), "kind 'q': expected `aa`, `bb` or `cc`", ""),
        (3, ("aa", "bb"), "kind 3: expected `aa` or `bb`", ""),
        (["aa"], ("aa", "bb"), "kind ['aa']: expected `aa` or `bb`", ""),
    ],
)
def test_an_unknown_word_is_answered(
    value: Any, known: tuple[str, ...], message: str, hint: str
) -> None:
    with pytest.raises(UnknownName) as caught:
        one_of("kind", value, known)
    assert (caught.value.message, caught.value.hint) == (message, hint)
