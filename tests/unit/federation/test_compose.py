"""What a user hands over is checked before anything runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from choral.core.errors import ConfigError, NotBuilt, UnknownKey
from choral.core.plan import Local
from choral.data import MappingSource
from choral.federation.compose import (
    aggregation_of,
    check_task,
    compose,
    local_of,
    selector_of,
    strategy_of,
)
from choral.selection import Uniform
from choral.strategies import FedAvg, FedProx
from choral.tasks.numpy import LinearTask

TASK = LinearTask("linear", input_dim=2)


def composed(**options: Any):
    data = {name: (np.zeros((2, 2)), np.zeros(2)) for name in "abc"}
    given = {"run_id": "r", "seed": 1, "name": "n", "task_name": "t", "rounds": 1, **options}
    return compose(given.pop("task", TASK), MappingSource(data, test_fraction=0), **given)


def test_names_mappings_and_objects_are_taken():
    mine = SimpleNamespace(name="mine", init=len, plan=len, step=len)
    assert strategy_of(None) == FedAvg()
    assert strategy_of("fedprox") == FedProx()
    assert strategy_of({"name": "fedprox", "mu": 0.5}) == FedProx(mu=0.5)
    assert strategy_of(mine) is mine
    assert selector_of(None) == Uniform()
    assert selector_of("uniform") == Uniform()
    assert selector_of(Uniform()) == Uniform()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (FedAvg, r"strategy is the class FedAvg, expected an object.*write `FedAvg\("),
        (3, "strategy is of type int without `init`, `plan`, `step`"),
        (SimpleNamespace(name="x", init=len, plan=3), "without `plan`, `step`"),
        (SimpleNamespace(init=len, plan=len, step=len), "without a `name`"),
        (SimpleNamespace(name=3, init=len, plan=len, step=len), "without a `name`"),
        ({"mu": 1}, "expected a name"),
    ],
    ids=str,
)
def test_a_strategy_that_is_none_is_refused(value, words):
    with pytest.raises(ConfigError, match=words):
        strategy_of(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Uniform, r"selection is the class Uniform, expected an object.*write `Uniform\("),
        (["a"], "selection is of type list without `__call__`"),
        (lambda *_: (), "selection is of type function without a `name`"),
    ],
    ids=["class", "list", "function"],
)
def test_a_selection_that_is_none_is_refused(value, words):
    with pytest.raises(ConfigError, match=words):
        selector_of(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (LinearTask, r"task `m:t` is the class LinearTask.*write `LinearTask\("),
        (None, "task `m:t` is of type NoneType without `init`, `train`, `evaluate`"),
        (SimpleNamespace(init=len, train=len), "without `evaluate`.*init, train and evaluate"),
    ],
    ids=str,
)
def test_a_task_that_is_none_is_refused(value, words):
    with pytest.raises(ConfigError, match=words):
        check_task(value, "m:t")
    with pytest.raises(ConfigError, match=words):
        composed(task=value, task_name="m:t")


@pytest.mark.parametrize("kind", ["robust", {"rule": "median"}])
def test_aggregations_of_later_are_named(kind):
    with pytest.raises(NotBuilt, match="is not built yet"):
        aggregation_of(kind)


def test_settings_are_normalised():
    setup = composed(
        rounds=np.int64(3),
        clients_per_round=np.int32(2),
        evaluate_every=np.int8(2),
        local={"lr": np.float32(0.5), "epochs": np.int64(2)},
        round={"deadline_s": 5, "goal": np.int64(1)},
        encoding={"range": np.float32(8), "weight_cap": None},
    )
    assert type(setup.policy.rounds) is type(setup.policy.round.goal) is int
    assert (setup.policy.rounds, setup.policy.evaluate_every) == (3, 2)
    assert (setup.policy.round.clients, setup.policy.round.goal) == (2, 1)
    assert setup.local == Local(epochs=2, lr=0.5)
    assert type(setup.local.lr) is type(setup.policy.round.deadline_s) is type(setup.range) is float
    assert (setup.range, setup.weight_cap) == (8.0, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rounds": "3"}, "rounds '3'"),
        ({"clients_per_round": "2"}, "clients_per_round '2'"),
        ({"clients_per_round": 4}, "4 of 3 clients"),
        ({"evaluate_every": 0.5}, "evaluation.every 0.5"),
        ({"local": 3}, "local 3: expected keys and values.*lr"),
        ({"local": {"shuffle": 0}}, "local.shuffle 0: expected true or false"),
        ({"round": [1]}, r"round \[1\]: expected keys and values"),
        ({"round": {"retries": 0.5}}, "round.retries 0.5"),
        ({"encoding": "256"}, "encoding '256': expected keys"),
        ({"encoding": {"range": 0}}, "encoding.range 0"),
        ({"encoding": {"weight_unit": "1"}}, "encoding.weight_unit '1'"),
        ({"encoding": {"weight_cap": -1}}, "encoding.weight_cap -1"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(ConfigError, match=words):
        composed(**options)


def test_unknown_keys_are_named():
    with pytest.raises(UnknownKey, match=r"`local\.lrr`.*did you mean `lr`"):
        composed(local={"lrr": 1})
    with pytest.raises(UnknownKey, match=r"`encoding\.3`"):
        composed(encoding={3: 1})
    own = SimpleNamespace(local_defaults={"lrr": 1})
    with pytest.raises(UnknownKey, match=r"`local_defaults\.lrr`"):
        local_of(own, None)


def test_what_is_given_wins_over_the_task():
    own = SimpleNamespace(local_defaults={"lr": 0.5, "epochs": 3})
    assert local_of(own, {"lr": 0.1}) == Local(epochs=3, lr=0.1)
    assert local_of(SimpleNamespace(), None) == Local()
