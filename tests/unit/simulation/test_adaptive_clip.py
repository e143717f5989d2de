"""Runs whose clip follows the clients' norms: where it ends, what it costs, what is refused."""

from dataclasses import replace

import numpy as np
import pytest

import choral
from choral.core.errors import ConfigError, PlanError, Refused, UnknownKey
from choral.core.params import Spec
from choral.core.plan import Cohort, Terms
from choral.core.update import Update
from choral.federation.calibration import protected
from choral.federation.compose import compose
from choral.federation.events import ChooseCohort
from choral.federation.protection import check_promise
from choral.privacy import UNSAMPLED, Relation, epsilon_of
from choral.privacy.adaptive import joint_release, model_multiplier
from choral.wire.plans import plan_from_json, plan_to_json

CLIENTS = 60


class Norms:
    """A task whose update has the norm that is the client's data."""

    def init(self, key):
        return {"w": np.zeros(4, np.float32)}

    def train(self, params, data, plan, key):
        return Update(np.full(4, data[0] / 2, np.float32), 1.0, {})

    def evaluate(self, params, data):
        return {"loss": 0.0}


NORMS = np.random.default_rng(2).lognormal(0.0, 0.5, CLIENTS)
MEDIAN = float(np.median(NORMS))


def run(rounds=3, **changes):
    wish = {"mode": "central", "noise_multiplier": 0.5, "max_norm": 1.0, "clip": "adaptive"}
    given = {
        "clients": {f"c{i:02}": [float(norm)] for i, norm in enumerate(NORMS)},
        "rounds": rounds,
        "privacy": wish | changes.pop("privacy", {}),
        "evaluate_clients": False,
        "test_fraction": 0.0,
        "seed": 1,
    }
    return choral.simulate(Norms(), **given | changes)


@pytest.mark.nightly
@pytest.mark.parametrize(("start", "quantile"), [(0.1, 0.5), (10.0, 0.5), (0.1, 0.8)])
def test_the_clip_ends_at_its_quantile_from_both_sides(start, quantile):
    wish = {"max_norm": start * MEDIAN, "clip": {"quantile": quantile}, "noise_multiplier": 2.0}
    result = run(rounds=60, privacy=wish)
    last = result.privacy["clip"]["last"]
    assert abs((last >= NORMS).mean() - quantile) <= 0.1
    told = [r["metrics"]["unclipped"] for r in result.rounds]
    assert abs(told[0] - (start * MEDIAN >= NORMS).mean()) < 0.3


def test_model_and_fraction_together_cost_what_is_told():
    result = run(rounds=4)
    release = joint_release(0.5, sampling=UNSAMPLED, dimension=4)
    alone = epsilon_of({release: 4}, delta=1e-5, relation=Relation.ADD_REMOVE).value
    assert result.epsilon == pytest.approx(alone)
    terms = result.protection
    assert (terms.multiplier, terms.count_sigma) == (0.5, 3.0)  # a twentieth of 60 clients
    both = model_multiplier(0.5, 3.0) ** -2 + (2 * 3.0) ** -2
    assert both == pytest.approx(0.5**-2)


def test_the_noise_of_the_model_follows_the_clip():
    """Updates are zero, so the clip falls and the model is noise: of the clip before the last."""
    many = {f"c{i}": [0.0] for i in range(10)}
    seen = []

    class Wide(Norms):
        def init(self, key):
            return {"w": np.zeros(4000, np.float32)}

        def train(self, params, data, plan, key):
            seen.append((plan.round, plan.privacy.max_norm, plan.encoding.range))
            return Update(np.zeros(4000, np.float32), 1.0, {})

    wish = {
        "mode": "central", "noise_multiplier": 2.0, "max_norm": 1.0, "clip": "adaptive"
    }  # fmt: skip
    models = [
        choral.simulate(
            Wide(), clients=many, rounds=rounds, privacy=wish, evaluate_clients=False, seed=1
        ).params["w"]
        for rounds in (1,)
    ]
    result = choral.simulate(
        Wide(), clients=many, rounds=2, privacy=wish, evaluate_clients=False, seed=1
    )
    assert all(2 * bound <= range_ < 4 * bound for _, bound, range_ in seen)
    first, second = seen[10][1], seen[20][1]
    assert first == 1.0
    assert second == pytest.approx(
        np.exp(-0.2 * (min(max(result.rounds[0]["metrics"]["unclipped"], 0), 1) - 0.5))
    )
    z = model_multiplier(2.0, 2.0)
    assert np.std(models[0]) == pytest.approx(z * 1.0 / 10, rel=0.06)
    assert np.std(result.params["w"]) == pytest.approx(z / 10 * np.hypot(1, second), rel=0.06)


def test_a_run_that_is_resumed_goes_on_with_its_clip(tmp_path):
    class Stopped(Exception):
        pass

    def stop(item):
        if isinstance(item, ChooseCohort) and item.round == 3:
            raise Stopped

    with pytest.raises(Stopped):
        run(rounds=4, out=tmp_path / "run", observers=[stop], privacy={"max_norm": 0.05})
    result = run(rounds=4, out=tmp_path / "run", resume=True, privacy={"max_norm": 0.05})
    clip = 0.05
    for row in result.rounds:
        clip *= np.exp(-0.2 * (min(max(row["metrics"]["unclipped"], 0.0), 1.0) - 0.5))
    assert result.privacy["clip"]["last"] == pytest.approx(clip)
    assert clip > 0.05


@pytest.mark.parametrize(
    ("wish", "kind", "words"),
    [
        ({"clip": "fixed"}, ConfigError, "clip"),
        ({"clip": {"quantil": 0.5}}, UnknownKey, "quantile"),
        ({"clip": {"quantile": 1.0}}, ConfigError, "quantile"),
        ({"mode": "record"}, PlanError, "central"),
    ],
)
def test_what_is_no_adaptive_clip_is_named(wish, kind, words):
    with pytest.raises(kind) as caught:
        run(privacy=wish)
    assert words in f"{caught.value}"


def test_a_secure_sum_has_no_adaptive_clip():
    with pytest.raises(PlanError, match="distributed"):
        run(privacy={"mode": None}, aggregation="secure")


def test_a_plan_says_it_and_a_client_counts_the_same():
    wish = {"noise_multiplier": 1.0, "max_norm": 1.0, "clip": "adaptive"}
    source = choral.data.as_source({f"c{i}": [1.0] for i in range(20)}, seed=1)
    setup = compose(
        Norms(), source, run_id="r", seed=1, name="n", task_name="t", rounds=3, privacy=wish
    )
    spec = Spec.of({"w": np.zeros(4, np.float32)})
    setup = protected(setup, spec)
    plan = setup.plan(
        Terms(), Cohort(tuple(source.ids), 20, 20), round=2, attempt=1, spec=spec,
        model_sha256="0" * 64, max_norm=0.3,
    )  # fmt: skip
    assert plan_from_json(plan_to_json(plan)) == plan
    assert plan.privacy.max_norm == 0.3
    assert check_promise(plan, 4).value == pytest.approx(setup.protection.epsilon)
    less = replace(plan, privacy=replace(plan.privacy, multiplier=0.9))
    with pytest.raises(Refused, match="promises epsilon"):
        check_promise(less, 4)
    with pytest.raises(PlanError, match="leaves none for the model"):
        check_promise(replace(plan, privacy=replace(plan.privacy, count_sigma=0.4)), 4)
