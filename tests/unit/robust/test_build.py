"""Building a robust rule from what a federation file says."""

from __future__ import annotations

import pytest

from choral.core.errors import ConfigError, UnknownKey, UnknownName
from choral.robust import GeometricMedian, Median, TrimmedMean, build


def test_a_name_and_arguments_give_the_rule() -> None:
    assert build("median") == Median()
    assert build("trimmed_mean", trim=0.25) == TrimmedMean(trim=0.25)
    assert build("geometric_median", iterations=3) == GeometricMedian(3)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        build("trimed_mean")
    assert caught.value.message == "unknown robust rule `trimed_mean`"
    assert caught.value.hint == "did you mean `trimmed_mean`?"
    with pytest.raises(UnknownName, match="known: geometric_median, median, trimmed_mean"):
        build("zzz")


def test_an_unknown_argument_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownKey) as caught:
        build("geometric_median", iteration=3)
    assert caught.value.message == "robust rule `geometric_median` has no argument `iteration`"
    assert caught.value.hint == "did you mean `iterations`?"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("trimmed_mean", {"trim": 0.5}, r"trimmed_mean\.trim 0.5: expected a number in \[0, 0.5\)"),
        ("trimmed_mean", {"trim": -0.1}, r"trimmed_mean\.trim -0.1"),
        ("trimmed_mean", {"trim": "0.1"}, r"trimmed_mean\.trim '0.1'"),
        ("geometric_median", {"iterations": 0}, r"geometric_median\.iterations 0: expected a whol"),
        ("geometric_median", {"iterations": 2.5}, r"geometric_median\.iterations 2.5"),
        ("geometric_median", {"smoothing": 0}, r"geometric_median\.smoothing 0: expected"),
        ("geometric_median", {"smoothing": float("nan")}, r"geometric_median\.smoothing nan"),
    ],
)
def test_an_argument_out_of_range_is_refused(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, **arguments)
