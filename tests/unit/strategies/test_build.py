"""Building a strategy from what a federation file says."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from choral.core.errors import ConfigError, UnknownKey, UnknownName
from choral.strategies import STRATEGIES, FedAdam, FedAvg, FedProx, build


def test_a_name_and_arguments_give_the_strategy() -> None:
    assert build("fedavg") == FedAvg()
    assert build("fedprox", mu=0.5) == FedProx(mu=0.5)
    assert build("fedadam", server_lr=0.1, tau=1e-8) == FedAdam(0.1, tau=1e-8)


@pytest.mark.parametrize("name", ["FedAvg", "fedvag", "fedavgg"])
def test_an_unknown_name_is_answered_with_the_nearest(name: str) -> None:
    with pytest.raises(UnknownName) as caught:
        build(name)
    assert caught.value.message == f"unknown strategy `{name}`"
    assert caught.value.hint.startswith("did you mean `fedavg`")


def test_a_name_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(UnknownName, match="known: fedadagrad, fedadam, fedavg, fedavgm"):
        build("zzz")


def test_a_name_that_is_no_string_is_refused() -> None:
    with pytest.raises(UnknownName, match="unknown strategy `3`"):
        build(3)


def test_an_unknown_argument_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownKey) as caught:
        build("fedadam", server_rl=0.1)
    assert caught.value.message == "strategy `fedadam` has no argument `server_rl`"
    assert caught.value.hint == "did you mean `server_lr`?"
    with pytest.raises(UnknownKey, match="`fedadagrad` has no argument `beta2`"):
        build("fedadagrad", beta2=0.9)


def test_an_argument_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"fedprox\.mu -1: expected"):
        build("fedprox", mu=-1)


def test_a_missing_argument_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Needy:
        rate: float

    monkeypatch.setitem(STRATEGIES, "needy", Needy)
    with pytest.raises(ConfigError, match="strategy `needy` needs `rate`"):
        build("needy")
