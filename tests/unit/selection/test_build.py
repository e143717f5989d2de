"""Building a selector from what a federation file says."""

from __future__ import annotations

import pytest

from choral.core.errors import ConfigError, UnknownKey, UnknownName
from choral.selection import Hybrid, Stratified, Uniform, build


def test_a_name_and_arguments_give_the_selector() -> None:
    assert build("uniform") == Uniform()
    assert build("stratified", by="region", min_share=0.1) == Stratified("region", 0.1)
    assert build("hybrid", by="region", random_share=0.2) == Hybrid("region", 0.2)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        build("roundrobin")
    assert caught.value.message == "unknown selection `roundrobin`"
    assert caught.value.hint == "did you mean `round_robin`?"
    with pytest.raises(UnknownName, match="known: hybrid, poisson, round_robin, stratified, uni"):
        build("zzz")


def test_an_unknown_argument_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownKey) as caught:
        build("stratified", by="region", min_shares=0.1)
    assert caught.value.message == "selection `stratified` has no argument `min_shares`"
    assert caught.value.hint == "did you mean `min_share`?"
    with pytest.raises(UnknownKey, match="`uniform` has no argument `by`"):
        build("uniform", by="region")


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(ConfigError, match="selection `stratified` needs `by`"):
        build("stratified")
