"""Chains: what composes, what does not, and in which order it is applied."""

import dataclasses
import math

import numpy as np
import pytest

from choral.core.aggregation import Plain
from choral.core.errors import PlanError
from choral.core.exact import Encoding, Total
from choral.core.keys import Key
from choral.core.params import Spec
from choral.core.plan import Local, Plan
from choral.core.transform import (
    Chain,
    Declared,
    Kind,
    Reducer,
    Transform,
    WeightedMean,
    check_chain,
)
from choral.core.update import Update

SPEC = Spec.of({"w": np.zeros(1, np.float32)})
PLAN = Plan(
    run_id="r",
    round=1,
    attempt=1,
    task="t",
    model_sha256="",
    spec_digest=SPEC.digest,
    local=Local(),
    mu=0.0,
    weighting="examples",
    aggregation=Plain(),
    encoding=Encoding(),
    goal=1,
    quorum=1,
    deadline_s=1.0,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Toy:
    """A transform that multiplies and adds, and undoes it; it writes down its keys."""

    name: str
    declared: Declared = dataclasses.field(default_factory=Declared)
    times: float = 1.0
    plus: float = 0.0
    keys: list[Key] = dataclasses.field(default_factory=list, compare=False)

    def encode(self, update: Update, spec: Spec, plan: Plan, key: Key) -> Update:
        self.keys.append(key)
        delta = update.delta * np.float32(self.times) + np.float32(self.plus)
        return dataclasses.replace(update, delta=delta)

    def decode(self, total: Total, spec: Spec, plan: Plan) -> Total:
        mean = (total.mean - np.float32(self.plus)) / np.float32(self.times)
        return dataclasses.replace(total, mean=mean)


@dataclasses.dataclass(frozen=True, slots=True)
class Median:
    """A reducer that reads every update."""

    name: str = "median"
    kind: Kind = Kind.EACH


CLIP = Toy("clip", Declared(bounds=1.0))
NOISE = Toy("noise", Declared(noise=True))
BOTH = Toy("noisy_clip", Declared(bounds=1.0, noise=True))
GROW = Toy("unpack", Declared(keeps_bound=False))
QUANTISE = Toy("quantise")
TOP_K = Toy("top_k", Declared(needs=Kind.EACH))
MEAN = WeightedMean()


# --- check_chain -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transforms", "reducer", "aggregation"),
    [
        ([], MEAN, "plain"),
        ([], MEAN, "secure"),
        ([], Median(), "robust"),
        ([CLIP], MEAN, "secure"),
        ([CLIP, NOISE], MEAN, "secure"),
        ([CLIP, QUANTISE, NOISE], MEAN, "plain"),
        ([CLIP, NOISE, GROW], MEAN, "plain"),
        ([GROW, CLIP, NOISE], MEAN, "plain"),
        ([CLIP, GROW, CLIP, NOISE, NOISE], MEAN, "plain"),
        ([BOTH], MEAN, "plain"),
        ([BOTH], MEAN, "secure"),
        ([GROW, BOTH], MEAN, "plain"),
        ([BOTH, NOISE], MEAN, "plain"),
        ([TOP_K], Median(), "robust"),
        ([TOP_K, CLIP, NOISE], Median(), "robust"),
    ],
)
def test_what_composes(transforms: list[Transform], reducer: Reducer, aggregation: str) -> None:
    assert check_chain(transforms, reducer, aggregation) == Chain(tuple(transforms))


@pytest.mark.parametrize(
    ("transforms", "reducer", "aggregation", "message", "hint"),
    [
        (
            [],
            Median(),
            "secure",
            "`median` needs every client's update, and secure",
            "use the mean",
        ),
        ([CLIP, NOISE], Median(), "secure", "`median` needs every client's update", "groups"),
        ([TOP_K], MEAN, "secure", "`top_k` needs every client's update, and `mean`", "`top_k`"),
        ([TOP_K], MEAN, "plain", "`top_k` needs every client's update, and `mean`", "`top_k`"),
        ([CLIP, NOISE, TOP_K], MEAN, "plain", "`top_k` needs every client's update", "plain"),
        ([NOISE], MEAN, "plain", "`noise` adds noise, but nothing bounds an update", "put a clip"),
        ([NOISE, CLIP], MEAN, "plain", "`noise` adds noise, but nothing bounds", "put a clip"),
        ([QUANTISE, NOISE], MEAN, "secure", "`noise` adds noise, but nothing", "put a clip"),
        ([CLIP, GROW, NOISE], MEAN, "plain", "`noise` adds noise, but nothing", "put a clip"),
        ([CLIP, NOISE, GROW, NOISE], MEAN, "plain", "`noise` adds noise", "put a clip"),
        ([NOISE, BOTH], MEAN, "plain", "`noise` adds noise, but nothing bounds", "put a clip"),
        ([BOTH, GROW, NOISE], MEAN, "plain", "`noise` adds noise, but nothing", "put a clip"),
        ([NOISE], Median(), "robust", "`noise` adds noise, but nothing bounds", "put a clip"),
    ],
)
def test_what_does_not_compose(
    transforms: list[Transform], reducer: Reducer, aggregation: str, message: str, hint: str
) -> None:
    with pytest.raises(PlanError) as caught:
        check_chain(transforms, reducer, aggregation)
    assert caught.value.message.startswith(message)
    assert hint in caught.value.hint


@pytest.mark.parametrize("aggregation", ["Secure", "secagg", ""])
def test_an_unknown_aggregation_is_refused(aggregation: str) -> None:
    with pytest.raises(PlanError, match=f"unknown aggregation `{aggregation}`") as caught:
        check_chain([], Median(), aggregation)
    assert caught.value.hint == "known: plain, robust, secure"


@pytest.mark.parametrize("bound", [math.inf, math.nan, 0.0, -1.0])
@pytest.mark.parametrize("noise", [False, True])
def test_a_bound_that_bounds_nothing_is_refused(bound: float, noise: bool) -> None:
    with pytest.raises(PlanError, match=f"`clip` bounds updates by {bound}"):
        check_chain([Toy("clip", Declared(bounds=bound, noise=noise)), NOISE], MEAN, "plain")


# --- Chain -------------------------------------------------------------------------------------


def test_encode_in_order_and_decode_backwards() -> None:
    chain = check_chain([Toy("double", times=2.0), Toy("shift", plus=3.0)], MEAN, "plain")
    key = Key.root(1)
    sent = chain.encode(Update(np.array([5.0], np.float32), 2.0, {"loss": 1.0}), SPEC, PLAN, key)
    assert sent.delta.tolist() == [13.0]
    assert (sent.weight, sent.metrics) == (2.0, {"loss": 1.0})
    total = chain.decode(Total(np.array([13.0], np.float32), 2.0, 1, {}), SPEC, PLAN)
    assert total.mean.tolist() == [5.0]


def test_each_transform_has_a_key_of_its_own() -> None:
    same = [Toy("a"), Toy("a"), Toy("b")]
    root = Key.root(1)
    Chain(tuple(same)).encode(Update(np.zeros(1, np.float32), 1.0), SPEC, PLAN, root)
    keys = [key for toy in same for key in toy.keys]
    assert keys == [root.fold(0, "a"), root.fold(1, "a"), root.fold(2, "b")]
    assert len(set(keys)) == 3


def test_an_empty_chain_changes_nothing() -> None:
    update = Update(np.ones(1, np.float32), 1.0)
    total = Total(np.zeros(1, np.float32), 0.0, 0, {})
    assert Chain().encode(update, SPEC, PLAN, Key.root(1)) is update
    assert Chain().decode(total, SPEC, PLAN) is total


def test_the_mean_is_a_sum() -> None:
    assert (MEAN.name, MEAN.kind) == ("mean", Kind.SUM)
