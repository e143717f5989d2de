"""A round's terms: values with a digest."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from choral.core.aggregation import Plain, Secure
from choral.core.errors import ConfigError
from choral.core.exact import Encoding
from choral.core.params import ClientId
from choral.core.plan import Cohort, Local, Objective, Plan, RecordPrivacy, Terms
from choral.core.protection import Protection

FIELDS: dict[str, Any] = {
    "run_id": "run-1",
    "round": 2,
    "attempt": 1,
    "task": "heart_task:task",
    "model_sha256": "00" * 32,
    "spec_digest": "11" * 32,
    "local": Local(),
    "mu": 0.5,
    "weighting": "examples",
    "aggregation": Plain(),
    "encoding": Encoding(),
    "goal": 4,
    "quorum": 3,
    "deadline_s": 600.0,
    "arguments": '{"input_dim":10}',
    "test_fraction": 0.25,
    "split_seed": 7,
    "key": "ab" * 32,
    "privacy": None,
}
PROTECTION = Protection(
    mode="central",
    mechanism="gaussian",
    max_norm=1.0,
    multiplier=1.1,
    epsilon=4.0,
    delta=1e-5,
    unit="user",
    relation="add_remove",
    rounds=10,
    selection="poisson",
    sampling={"kind": "none"},
    expected=10.0,
)
OTHER: dict[str, Any] = {
    "run_id": "run-2",
    "round": 3,
    "attempt": 2,
    "task": "other:task",
    "model_sha256": "01" * 32,
    "spec_digest": "12" * 32,
    "local": Local(lr=0.02),
    "mu": 0.25,
    "weighting": "uniform",
    "aggregation": Secure(),
    "encoding": Encoding(512),
    "goal": 5,
    "quorum": 2,
    "deadline_s": 60.0,
    "arguments": "",
    "test_fraction": 0.5,
    "split_seed": 8,
    "key": "",
    "privacy": PROTECTION,
}


def plan(**changes: Any) -> Plan:
    return Plan(**(FIELDS | changes))


def test_golden_json() -> None:
    assert plan().as_json() == {
        **{name: value for name, value in FIELDS.items() if name != "privacy"},
        "aggregation": {"kind": "plain"},
        "local": {"epochs": 1, "steps": None, "batch_size": 32, "lr": 0.01, "shuffle": True},
        "encoding": {"range": 256.0, "weight_unit": 1024.0, "weight_cap": 1048576.0},
    }


def test_golden_digest() -> None:
    assert plan().digest == "db4f8536b6678bf8b62cb91b8f80622209a118540d47bfbbaf2ee323e8d66239"


def test_every_field_but_the_objective_is_in_the_digest() -> None:
    named = {f.name for f in dataclasses.fields(Plan)} - {"objective"}
    assert named == FIELDS.keys() == OTHER.keys()
    digests = {plan().digest} | {plan(**{name: OTHER[name]}).digest for name in named}
    assert len(digests) == 1 + len(named)


@pytest.mark.parametrize(
    "change", [{"multiplier": 1.2}, {"sampling": {"kind": "poisson"}}, {"survivors": 3}]
)
def test_every_term_of_its_privacy_is_in_the_digest(change: dict[str, Any]) -> None:
    other = dataclasses.replace(PROTECTION, **change)
    assert plan(privacy=other).digest != plan(privacy=PROTECTION).digest
    assert isinstance(hash(plan(privacy=PROTECTION)), int)


@pytest.mark.parametrize(
    "change", [{"epochs": 2}, {"steps": 1}, {"batch_size": None}, {"shuffle": False}]
)
def test_every_local_hyper_parameter_is_in_the_digest(change: dict[str, Any]) -> None:
    assert plan(local=Local(**change)).digest != plan().digest


def test_the_objective_is_outside_digest_and_equality() -> None:
    bound = dataclasses.replace(plan(), objective=Objective(mu=1.0, drift=np.ones(2, np.float32)))
    assert bound.digest == plan().digest
    assert bound == plan()
    assert hash(bound) == hash(plan())
    assert "objective" not in bound.as_json()
    assert "objective" not in repr(bound)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"mu": 0}, {"mu": 0.0}),
        ({"mu": -0.0}, {"mu": 0.0}),
        ({"deadline_s": 600}, {"deadline_s": 600.0}),
        ({"local": Local(lr=1)}, {"local": Local(lr=1.0)}),
        ({"encoding": Encoding(weight_cap=4096)}, {"encoding": Encoding(weight_cap=4096.0)}),
    ],
)
def test_equal_plans_have_equal_digests(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert plan(**one) == plan(**other)
    assert plan(**one).digest == plan(**other).digest


def test_a_plan_that_json_cannot_say_has_no_digest() -> None:
    with pytest.raises(ValueError, match="JSON"):
        _ = plan(deadline_s=float("inf")).digest


def test_plans_are_values() -> None:
    assert plan() == plan()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan().round = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Local().lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("objective", "plain"),
    [
        (Objective(), True),
        (Objective(anchor=np.zeros(1, np.float32)), True),
        (Objective(mu=0.1), False),
        (Objective(drift=np.zeros(1, np.float32)), False),
    ],
)
def test_a_plain_objective_is_the_loss_alone(objective: Objective, plain: bool) -> None:
    assert objective.plain is plain


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (name, value)
        for name in ("epochs", "steps", "batch_size")
        for value in (0, -1, 1.0, True, "3")
    ]
    + [("epochs", None)]
    + [("lr", value) for value in (0, -0.1, float("inf"), float("nan"), "0.1", None, True)]
    + [("shuffle", value) for value in (0, 1, "yes", None)],
)
def test_a_local_hyper_parameter_out_of_range_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"local\.{field} .*: expected (a|true)"):
        Local(**{field: value})


def test_the_smallest_local_hyper_parameters() -> None:
    smallest = Local(epochs=1, steps=1, batch_size=1, lr=5e-324)
    assert smallest.lr > 0
    assert Local(steps=None, batch_size=None).batch_size is None


def test_numbers_become_python_numbers() -> None:
    """A NumPy scalar would widen the arrays that it is multiplied with, and has no JSON."""
    given = Local(np.int64(2), np.int8(3), np.uint16(4), np.float64(1), np.bool_(False))
    assert (
        repr(given) == "Local(epochs=2, steps=3, batch_size=4, lr=1.0, shuffle=False, record=None)"
    )
    assert repr(Terms(mu=np.float32(1))) == repr(Terms(mu=1)) == repr(Terms(mu=1.0))
    assert repr(Terms(mu=-0.0)) == repr(Terms(mu=0.0))


def test_defaults() -> None:
    assert Local() == Local(epochs=1, steps=None, batch_size=32, lr=0.01, shuffle=True)
    assert Terms() == Terms(weighting="examples", mu=0.0)
    assert Cohort((ClientId("a"), ClientId("b")), goal=2, quorum=1).clients == ("a", "b")


@pytest.mark.parametrize(
    "bad",
    [{"weighting": "unifrom"}, {"weighting": None}]
    + [{"mu": mu} for mu in (-1.0, float("nan"), float("inf"), "1", True, None)],
    ids=str,
)
def test_terms_out_of_range_are_named(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Terms(**bad)


def test_record_privacy_is_in_the_digest_only_where_it_is() -> None:
    assert "record" not in Local().as_json()
    terms = RecordPrivacy(1.0, 1.1)
    assert Local(record=terms).as_json()["record"]["noise_multiplier"] == 1.1
    assert Local(record={"max_grad_norm": 1, "noise_multiplier": 1.1}).record == terms


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"max_grad_norm": 0, "noise_multiplier": 1}, "max_grad_norm"),
        ({"max_grad_norm": 1}, "and not both"),
        ({"max_grad_norm": 1, "noise_multiplier": 1, "epsilon": 1}, "and not both"),
        ({"max_grad_norm": 1, "epsilon": 1}, "needs `delta` and `rounds`"),
        ({"max_grad_norm": 1, "noise_multiplier": -1}, "noise_multiplier"),
        ({"noise_multiplier": 1}, "needs `max_grad_norm`"),
        ({"max_grad_norm": 1, "noise": 1}, "unknown key `noise`"),
        (3, "expected terms"),
    ],
)
def test_record_privacy_that_cannot_be(terms, said) -> None:
    with pytest.raises(ConfigError, match=said):
        Local(record=terms)
