"""FedProx, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from choral.core.errors import ConfigError
from choral.core.plan import Terms
from choral.core.strategy import Aggregate
from choral.strategies import FedProx


def test_two_rounds_by_hand() -> None:
    fedprox = FedProx(mu=0.1)
    state = fedprox.init(np.array([1.0, -2.0], np.float32))
    state = fedprox.step(state, Aggregate(1, np.array([0.5, 1.0], np.float32), 30.0, 2, {}))
    assert state.params.tolist() == [1.5, -1.0]
    state = fedprox.step(state, Aggregate(2, np.array([-1.0, 0.25], np.float32), 30.0, 2, {}))
    assert state.params.tolist() == [0.5, -0.75]


def test_the_pull_and_the_weighting_are_asked_of_the_clients() -> None:
    state = FedProx().init(np.zeros(1, np.float32))
    assert FedProx(mu=0.3).plan(state, 1) == Terms(weighting="examples", mu=0.3)
    assert FedProx(mu=0.3, weighting="uniform").plan(state, 2) == Terms("uniform", 0.3)


def test_a_whole_number_becomes_a_float() -> None:
    assert repr(FedProx(mu=0)) == "FedProx(mu=0.0, weighting='examples')"


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf"), "0.1", True, None])
def test_a_pull_out_of_range_is_refused(mu: object) -> None:
    with pytest.raises(ConfigError, match=r"fedprox\.mu .*: expected a number in \[0, 1e6\]"):
        FedProx(mu=mu)
