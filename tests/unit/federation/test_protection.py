"""What a client refuses of a plan that promises privacy."""

from dataclasses import replace

import numpy as np
import pytest

from choral.core.errors import ChoralError, Refused
from choral.data import as_source
from choral.federation.calibration import protected
from choral.federation.compose import compose
from choral.federation.protection import check_promise
from choral.wire.plans import plan_from_json, plan_to_json


class Task:
    def init(self, key):
        return {"w": np.zeros(8, np.float32)}

    def train(self, params, data, plan, key):
        raise NotImplementedError

    def evaluate(self, params, data):
        return {}


def plan_of(**changes):
    terms = {"privacy": {"noise_multiplier": 2.0, "max_norm": 1.0}}
    setup = compose(
        Task(),
        as_source({f"c{i}": list(range(5)) for i in range(9)}, seed=1),
        run_id="r",
        seed=1,
        name="n",
        task_name="t",
        rounds=5,
        **terms | changes,
    )
    participant, first = setup.participant()
    setup = protected(setup, participant.spec)
    cohort = setup.policy.round.cohort(setup.source.ids)
    return setup.plan(
        setup.strategy.plan(None, 1),
        cohort,
        round=1,
        attempt=1,
        spec=participant.spec,
        model_sha256=first.sha256,
    )


@pytest.mark.parametrize("aggregation", ["plain", "secure"])
def test_an_honest_plan_travels_and_keeps_its_promise(aggregation):
    plan = plan_of(aggregation=aggregation)
    back = plan_from_json(plan_to_json(plan), digest=plan.digest)
    assert back == plan
    assert plan.weighting == "uniform"
    assert check_promise(back, 8).value == pytest.approx(plan.privacy.epsilon)


WEAKER = [
    ("plain", {"multiplier": 1.0}, "its noise gives"),
    ("plain", {"rounds": 50}, "its noise gives"),
    ("plain", {"sampling": {"kind": "poisson", "q": 0.1, "cap": None, "population": None}}, "not"),
    ("plain", {"unit": "record"}, "clips whole updates"),
    ("secure", {"variance": 10.0}, "."),
    ("secure", {"max_norm": 3.0}, "."),
    ("secure", {"corrupt": 0}, "leave theirs out"),
    ("secure", {"relation": "add_remove"}, "who takes part"),
    (
        "secure",
        {
            "selection": "poisson",
            "sampling": {"kind": "poisson", "q": 0.1, "cap": None, "population": None},
        },
        "credit for sampling",
    ),
]


@pytest.mark.parametrize(("aggregation", "change", "words"), WEAKER)
def test_a_plan_that_promises_more_than_it_keeps_is_refused(aggregation, change, words):
    plan = plan_of(aggregation=aggregation)
    with pytest.raises(ChoralError, match=words):
        check_promise(replace(plan, privacy=replace(plan.privacy, **change)), 8)


def test_a_plan_that_weighs_clients_is_refused():
    with pytest.raises(Refused, match="weighs"):
        check_promise(replace(plan_of(), weighting="examples"), 8)
