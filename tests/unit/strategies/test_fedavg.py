"""FedAvg, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from choral.core.errors import ConfigError
from choral.core.plan import Terms
from choral.core.strategy import Aggregate
from choral.strategies import FedAvg


def change(*delta: float, at: int = 1) -> Aggregate:
    return Aggregate(at, np.array(delta, np.float32), 30.0, 2, {})


def test_two_rounds_by_hand() -> None:
    fedavg = FedAvg()
    state = fedavg.init(np.array([1.0, -2.0], np.float32))
    state = fedavg.step(state, change(0.5, 1.0))
    assert state.params.tolist() == [1.5, -1.0]
    state = fedavg.step(state, change(-1.0, 0.25, at=2))
    assert state.params.tolist() == [0.5, -0.75]


def test_the_server_learning_rate_scales_the_step() -> None:
    fedavg = FedAvg(server_lr=0.5)
    state = fedavg.step(fedavg.init(np.array([1.0], np.float32)), change(3.0))
    assert state.params.tolist() == [2.5]


def test_at_rate_one_the_result_is_the_mean_of_the_models() -> None:
    models = np.array([[1.0, 4.0], [2.0, 8.0], [6.0, 0.0]])
    examples = np.array([1.0, 2.0, 1.0])
    start = np.array([0.5, 0.5], np.float32)
    delta = ((models - start) * examples[:, None]).sum(0) / 4.0
    fedavg = FedAvg()
    state = fedavg.step(fedavg.init(start), change(*delta))
    # (1 + 2*2 + 6) / 4 = 2.75 and (4 + 2*8 + 0) / 4 = 5
    assert state.params.tolist() == [2.75, 5.0]


def test_the_weighting_is_asked_of_the_clients() -> None:
    state = FedAvg().init(np.zeros(1, np.float32))
    assert FedAvg().plan(state, 1) == Terms(weighting="examples", mu=0.0)
    assert FedAvg(weighting="uniform").plan(state, 1) == Terms(weighting="uniform", mu=0.0)


def test_a_bad_argument_is_named_with_its_value_and_range() -> None:
    with pytest.raises(ConfigError, match=r"fedavg\.weighting 'example': expected `examples`"):
        FedAvg(weighting="example")
    with pytest.raises(ConfigError, match=r"fedavg\.server_lr 0: expected a number in \(0, 1e6\]"):
        FedAvg(server_lr=0)
