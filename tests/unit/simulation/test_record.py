"""Runs that hide records: what they promise, what they tell, and what is refused."""

import numpy as np
import pytest
import torch

import choral
from choral.core.errors import BudgetExhausted, PlanError
from choral.core.plan import Local
from choral.core.update import Update
from choral.privacy.record import record_epsilon
from choral.tasks.numpy import LinearTask
from choral.tasks.torch import TorchTask

LOCAL = {"batch_size": None, "lr": 0.5}
"""All records in every step: the exact formula holds, and is quick."""


def hospital(n, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    return x, (x.sum(axis=1) > 0).astype(np.int64)


def run(**changes):
    given = {
        "clients": {"north": hospital(60), "south": hospital(40), "west": hospital(80)},
        "rounds": 2,
        "local": LOCAL,
        "privacy": {"mode": "record", "noise_multiplier": 8.0, "max_norm": 1.0},
        "evaluate": hospital(100, seed=9),
        "evaluate_clients": False,
        "seed": 3,
    }
    return choral.simulate(LinearTask("logistic", input_dim=3), **given | changes)


@pytest.mark.parametrize(("aggregation", "level"), [("plain", "L1"), ("secure", "L3")])
def test_a_run_says_what_each_record_may_have_lost(aggregation, level):
    result = run(aggregation=aggregation)
    local = Local(**LOCAL, record={"max_grad_norm": 1.0, "noise_multiplier": 8.0})
    worst = record_epsilon(local, 40, 2, dimension=8).value
    told = result.privacy
    assert told["epsilon"] == pytest.approx(worst)
    assert told["planned_epsilon"] == pytest.approx(worst)
    assert (told["mode"], told["unit"], told["relation"], told["level"]) == (
        "record", "record", "add_remove", level,
    )  # fmt: skip
    assert (told["noise_multiplier"], told["max_grad_norm"]) == (8.0, 1.0)
    assert (told["evaluation"], told["mechanism"]) == ("public", "gaussian")
    grown = [r["epsilon"] for r in result.rounds]
    assert grown[0] < grown[1] == result.epsilon
    assert not any("train_loss" in r["metrics"] for r in result.rounds)


class Talkative(LinearTask):
    """Trains with noise, and tells without."""

    record_privacy = True

    def train(self, params, data, plan, key):
        update = super().train(params, data, plan, key)
        return Update(update.delta, update.weight, {"accuracy": 0.7, "train_loss": 0.4})


@pytest.mark.parametrize("aggregation", ["plain", "secure"])
def test_what_a_task_says_of_its_training_stays_with_the_client(aggregation):
    grid = {"metrics": {"accuracy": 1.0}} if aggregation == "secure" else {}
    clients = {"north": hospital(60), "south": hospital(40), "west": hospital(80)}
    result = choral.simulate(
        Talkative("logistic", input_dim=3), clients=clients, rounds=1, local=LOCAL,
        privacy={"mode": "record", "noise_multiplier": 8.0, "max_norm": 1.0},
        aggregation=aggregation, encoding=grid or None, seed=3,
    )  # fmt: skip
    assert set(result.rounds[0]["metrics"]) == set()


def test_an_epsilon_is_kept_and_each_client_finds_its_own_noise():
    result = run(privacy=choral.Privacy(epsilon=3.0, mode="record"))
    assert result.epsilon == result.privacy["planned_epsilon"] == 3.0
    assert result.privacy["noise_multiplier"] is None


def test_the_article_s_words_are_the_mode():
    block = {"dp_enabled": True, "noise_multiplier": 8.0, "max_grad_norm": 1.0}
    assert run(privacy=block).privacy["epsilon"] == run().privacy["epsilon"]
    off = run(privacy={**block, "dp_enabled": False}, evaluate=None, evaluate_clients=None)
    assert off.privacy["mode"] == "none"
    assert off.client_metrics  # as in any run without privacy


def test_clients_are_weighed_by_their_records_and_their_noise_is_there():
    calm, loud = run(), run(privacy={"mode": "record", "noise_multiplier": 800.0, "max_norm": 1.0})
    assert calm.rounds[0]["weight"] == 180.0
    far = [float(np.abs(r.params["weight"]).max()) for r in (calm, loud)]
    assert far[1] > 10 * far[0]
    assert not np.array_equal(run().params["weight"], run().params["weight"])


def test_noise_that_does_not_keep_the_epsilon_beside_it_is_refused():
    with pytest.raises(PlanError, match=r"above privacy\.epsilon"):
        run(privacy={"mode": "record", "noise_multiplier": 1.0, "max_norm": 1.0, "epsilon": 0.5})


def test_rounds_that_are_tried_again_cannot_pass_the_epsilon():
    """Nobody answers in time at first: clients have trained, and the last round is not begun."""
    lost = iter([True] * 2)

    def arrival(key):
        return None if next(lost, False) else 0.0

    with pytest.raises(BudgetExhausted, match="asked to train 3 times") as caught:
        run(privacy={"mode": "record", "epsilon": 3.0}, arrival=arrival)
    result = caught.value.result
    assert len(result.rounds) == 1
    assert result.epsilon == 3.0


def test_a_delta_that_gives_somebody_away_is_noted():
    (note,) = run(privacy={"mode": "record", "epsilon": 3.0, "delta": 0.1}).privacy["notes"]
    assert "1/40" in note


def test_batch_norm_is_refused_by_its_name_before_anybody_trains():
    def model():
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))

    class Watched(TorchTask):
        trained = False
        record_privacy = True

        def train(self, *arguments):
            Watched.trained = True

    task = Watched(model, torch.nn.functional.cross_entropy)
    with pytest.raises(PlanError, match="layer `1` is BatchNorm1d") as caught:
        choral.simulate(
            task,
            clients={"a": hospital(20), "b": hospital(20)},
            rounds=1,
            privacy={"mode": "record", "epsilon": 3.0},
        )
    assert "GroupNorm" in caught.value.hint
    assert not Watched.trained


def test_a_task_that_would_ignore_it_is_refused():
    class Careless(LinearTask):
        def train(self, params, data, plan, key):
            raise AssertionError

    with pytest.raises(PlanError, match="record_privacy = True"):
        choral.simulate(
            Careless("logistic", input_dim=3),
            clients={"a": hospital(20), "b": hospital(20)},
            rounds=1,
            privacy={"mode": "record", "epsilon": 3.0},
        )
