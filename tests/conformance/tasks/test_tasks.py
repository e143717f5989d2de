"""The laws that every task obeys. A new adapter adds a line to CASES."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor
from torch import nn
from torch.nn import functional

from choral.core.errors import EmptyClient, WrongShape
from choral.core.keys import Key
from choral.core.params import Params
from choral.core.plan import Objective
from choral.core.task import Task, spec_of
from choral.tasks.numpy import LinearTask
from choral.tasks.sklearn import SklearnTask
from choral.tasks.torch import TorchTask
from choral.tasks.zoo import build

FEATURES = 4
EXAMPLES = 11
KEY = Key.root(3).fold(1, "client", "train")


@dataclass(frozen=True)
class Case:
    """One line of the table.

    `slope`: what to divide the gradient of the evaluated loss by to get the trained one, or None
    where one step is not a gradient of it (dropout, batch statistics, adaptive steps).
    """

    make: Callable[[], Task]
    classes: int | None
    slope: float | None = 1.0
    sgd: bool = True
    lr: float = 0.1
    wide: Callable[[int], Task] | None = None


def dropout_net() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def small_net() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 6), nn.Tanh(), nn.Linear(6, 3))


def torch_task(model: Callable[[], nn.Module], loss: Any, **arguments: Any) -> TorchTask:
    return TorchTask(model, loss, **arguments)


ENTROPY = functional.cross_entropy
CASES: dict[str, Case] = {
    "numpy-linear": Case(lambda: LinearTask("linear", input_dim=FEATURES), None),
    "numpy-binary": Case(lambda: LinearTask("logistic", input_dim=FEATURES), 2),
    "numpy-classes": Case(
        lambda: LinearTask("logistic", input_dim=FEATURES, classes=3),
        3,
        wide=lambda d: LinearTask("logistic", input_dim=d, classes=3),
    ),
    "torch-linear": Case(
        lambda: torch_task(lambda: nn.Linear(FEATURES, 1), functional.mse_loss), None
    ),
    "torch-binary": Case(
        lambda: torch_task(
            lambda: nn.Linear(FEATURES, 1), functional.binary_cross_entropy_with_logits
        ),
        2,
    ),
    "torch-net": Case(
        lambda: torch_task(small_net, ENTROPY),
        3,
        wide=lambda d: torch_task(lambda: nn.Linear(d, 3), ENTROPY),
    ),
    "torch-double": Case(lambda: torch_task(lambda: small_net().double(), ENTROPY), 3),
    "torch-dropout": Case(lambda: torch_task(dropout_net, ENTROPY), 3, slope=None),
    "torch-batchnorm": Case(lambda: torch_task(norm_net, ENTROPY), 3, slope=None),
    "torch-personal": Case(
        lambda: torch_task(small_net, ENTROPY, roles={"2.*": "personal"}), 3, slope=None
    ),
    "torch-frozen": Case(
        lambda: torch_task(small_net, ENTROPY, roles={"0.bias": "frozen"}), 3, slope=None
    ),
    "torch-momentum": Case(
        lambda: torch_task(small_net, ENTROPY, momentum=0.9), 3, slope=None, sgd=False
    ),
    "torch-adam": Case(
        lambda: torch_task(small_net, ENTROPY, optimizer="adam"), 3, slope=None, sgd=False, lr=0.02
    ),
    "torch-callable": Case(
        lambda: torch_task(
            small_net, ENTROPY, optimizer=functools.partial(torch.optim.SGD, nesterov=False)
        ),
        3,
    ),
    "zoo-mlp": Case(lambda: build("mlp", input_dim=FEATURES, hidden=[5], classes=3), 3),
    "sklearn-log-loss": Case(
        lambda: SklearnTask(
            SGDClassifier(loss="log_loss", alpha=0.0), input_dim=FEATURES, classes=3
        ),
        3,
    ),
    "sklearn-hinge": Case(
        lambda: SklearnTask(SGDClassifier(alpha=0.0), input_dim=FEATURES, classes=2), 2, lr=0.5
    ),
    "sklearn-perceptron": Case(
        lambda: SklearnTask(Perceptron(), input_dim=FEATURES, classes=3), 3, slope=None
    ),
    "sklearn-linear": Case(
        lambda: SklearnTask(SGDRegressor(alpha=0.0), input_dim=FEATURES), None, slope=2.0, lr=0.05
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def task(case: Case) -> Task:
    return case.make()


@pytest.fixture
def params(task: Task) -> Params:
    """A model away from the start, so that a linear model is not at zero."""
    first = task.init(Key.root(3))
    spec = spec_of(task, first)
    vector = spec.flatten(first)
    vector[: spec.shared_size] += np.random.default_rng(2).normal(0, 0.1, spec.shared_size)
    return spec.unflatten(vector, first)


def draw(case: Case, count: int = EXAMPLES) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(count, FEATURES)).astype(np.float32)
    score = x @ np.array([1.0, -2.0, 0.5, 0.0])
    if case.classes is None:
        return x, score.astype(np.float32)
    cuts = {2: [0.0], 3: [-0.8, 0.8]}[case.classes]
    return x, np.digitize(score, cuts)


def same(a: Any, b: Any) -> bool:
    kept = (a.kept or {}).keys() == (b.kept or {}).keys() and all(
        np.array_equal(a.kept[n], b.kept[n]) for n in a.kept or {}
    )
    return (
        a.delta.tobytes() == b.delta.tobytes()
        and a.weight == b.weight
        and dict(a.metrics) == dict(b.metrics)
        and kept
    )


def test_init_depends_on_the_seed_alone(case, task):
    key = Key.root(11)
    first, again = task.init(key.fold("init")), case.make().init(key.fold("elsewhere"))
    assert Params(first).sha256 == Params(again).sha256


def test_equal_arguments_give_equal_updates(case, task, params, make_plan):
    data, plan = draw(case), make_plan(batch_size=3, lr=case.lr)
    first = task.train(params, data, plan, KEY)
    task.evaluate(params, data)
    task.train(params, (data[0][:5], data[1][:5]), plan, KEY.fold("other"))
    assert same(first, task.train(params, data, plan, KEY))
    assert same(first, case.make().train(params, data, plan, KEY))


def shifted(array: np.ndarray, offset: int) -> np.ndarray:
    """Return a copy that starts `offset` bytes behind a 64-byte boundary."""
    room = np.empty(array.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + offset
    out = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


@pytest.mark.parametrize("features", [FEATURES, 13])
def test_where_the_data_lies_in_memory_changes_no_bit(case, make_plan, features):
    """BLAS may round differently for another alignment; engines hand the same data at any."""
    if features != FEATURES and case.wide is None:
        pytest.skip("the case has one width")
    task = case.make() if features == FEATURES else case.wide(features)
    rng = np.random.default_rng(5)
    x = rng.normal(size=(37, features)).astype(np.float32)
    y = rng.integers(0, case.classes, 37) if case.classes else x[:, 0].copy()
    first = task.init(Key.root(3))
    plan = make_plan(batch_size=7, lr=case.lr, shuffle=False)
    results = [
        (
            task.train(first, (shifted(x, at), y), plan, KEY).delta.tobytes(),
            task.evaluate(first, (shifted(x, at), y)),
        )
        for at in (0, 4, 8, 12, 16, 32)
    ]
    assert all(result == results[0] for result in results)


def test_training_and_evaluation_do_not_touch_each_other(case, task, params, make_plan):
    data, plan = draw(case), make_plan(batch_size=3, lr=case.lr)
    other = case.make()
    evaluated, trained = task.evaluate(params, data), other.train(params, data, plan, KEY)
    assert same(task.train(params, data, plan, KEY), trained)
    assert other.evaluate(params, data) == evaluated


def test_the_key_decides_the_order_of_examples(case, task, params, make_plan):
    data = draw(case)
    shuffled = make_plan(epochs=4, batch_size=3, lr=case.lr)
    a, b = (task.train(params, data, shuffled, KEY.fold(i)).delta for i in (0, 1))
    assert not np.array_equal(a, b)


def test_data_and_model_are_only_read(case, task, params, make_plan):
    x, y = draw(case)
    before = params.sha256
    loose = task.train(params, (x.copy(), y.copy()), make_plan(batch_size=3, lr=case.lr), KEY)
    kept = x.copy(), y.copy()
    task.train(params, kept, make_plan(batch_size=3, lr=case.lr, shuffle=False), KEY)
    task.evaluate(params, kept)
    assert np.array_equal(kept[0], x)
    assert np.array_equal(kept[1], y)
    assert params.sha256 == before
    x.flags.writeable = y.flags.writeable = False
    assert same(loose, task.train(params, (x, y), make_plan(batch_size=3, lr=case.lr), KEY))


def test_updates_fit_the_model_and_weigh_their_examples(case, task, params, make_plan):
    update = task.train(params, draw(case), make_plan(batch_size=3, lr=case.lr), KEY)
    spec = spec_of(task, params)
    update.check(spec)
    assert update.weight == EXAMPLES
    assert set(update.metrics) == {"train_loss"}
    assert np.any(update.delta[: spec.shared_size])
    assert set(update.kept or {}) == set(spec.names("personal"))


def test_an_update_owns_its_memory(case, task, params, make_plan):
    plan = make_plan(batch_size=3, lr=case.lr)
    update = task.train(params, draw(case), plan, KEY)
    delta = update.delta.copy()
    kept = {n: a.copy() for n, a in (update.kept or {}).items()}
    task.train(params, draw(case, 8), plan, KEY.fold("other"))
    assert np.array_equal(update.delta, delta)
    assert all(np.array_equal(update.kept[n], kept[n]) for n in kept)


def test_one_step_is_minus_lr_times_the_gradient(case, task, params, make_plan):
    if case.slope is None:
        pytest.skip("one step is not the gradient of the evaluated loss")
    x, y = draw(case)
    data = x[:1], y[:1]
    spec = spec_of(task, params)
    at = spec.flatten(params).astype(np.float64)
    numeric = np.empty_like(at)
    for i in range(at.size):
        ahead, behind = at.copy(), at.copy()
        ahead[i] += 1e-2
        behind[i] -= 1e-2
        high, low = (
            task.evaluate(spec.unflatten(v.astype(np.float32), params), data)["loss"]
            for v in (ahead, behind)
        )
        numeric[i] = (high - low) / 2e-2
    update = task.train(params, data, make_plan(batch_size=1, lr=case.lr), KEY)
    np.testing.assert_allclose(-update.delta / case.lr * case.slope, numeric, atol=3e-3)


@pytest.mark.parametrize("own_anchor", [False, True])
def test_mu_and_drift_add_to_the_gradient(case, task, params, make_plan, own_anchor):
    if not case.sgd:
        pytest.skip("the step is not linear in the gradient")
    data, spec = draw(case), spec_of(task, params)
    size, rng = spec.shared_size, np.random.default_rng(1)
    w = spec.flatten(params)[:size]
    drift = rng.normal(size=size).astype(np.float32)
    anchor = rng.normal(size=size).astype(np.float32) if own_anchor else None
    pulled = Objective(mu=0.7, anchor=anchor, drift=drift)
    local = {"steps": 1, "batch_size": None, "lr": case.lr, "shuffle": False}
    plain = task.train(params, data, make_plan(**local), KEY)
    update = task.train(params, data, make_plan(pulled, **local), KEY)
    pull = drift + (0.7 * (w - anchor) if own_anchor else 0.0)
    np.testing.assert_allclose(
        update.delta[:size], plain.delta[:size] - case.lr * pull, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(update.delta[size:], plain.delta[size:])


def test_mu_holds_the_model_near_the_received_one(case, task, params, make_plan):
    if not case.sgd:
        pytest.skip("the step is not linear in the gradient")
    data, size = draw(case), spec_of(task, params).shared_size
    norms = [
        np.linalg.norm(
            task.train(
                params, data, make_plan(Objective(mu=mu), epochs=8, batch_size=3, lr=case.lr), KEY
            ).delta[:size]
        )
        for mu in (0.0, 3.0)
    ]
    assert norms[1] < 0.8 * norms[0]


def test_drift_acts_once_a_step(case, task, params, make_plan):
    if not case.sgd:
        pytest.skip("the step is not linear in the gradient")
    data, size = draw(case), spec_of(task, params).shared_size
    drift, lr = np.full(size, 2.0**16, np.float32), 2.0**-40
    # A drift so much larger than the gradient shows the number of steps alone.
    plan = make_plan(Objective(drift=drift), steps=5, batch_size=4, lr=lr)
    delta = task.train(zeros(task, params), data, plan, KEY).delta[:size]
    np.testing.assert_allclose(delta, -5 * lr * 2.0**16, rtol=1e-3)


def zeros(task: Task, params: Params) -> Params:
    spec = spec_of(task, params)
    vector = spec.flatten(params)
    vector[: spec.shared_size] = 0
    return spec.unflatten(vector, params)


def test_steps_are_honoured(case, task, params, make_plan):
    data = draw(case)
    epochs = task.train(params, data, make_plan(epochs=2, batch_size=4, lr=case.lr), KEY)
    steps = task.train(params, data, make_plan(steps=6, batch_size=4, lr=case.lr), KEY)
    fewer = task.train(params, data, make_plan(steps=5, batch_size=4, lr=case.lr), KEY)
    assert same(epochs, steps)
    assert not np.array_equal(fewer.delta, steps.delta)


def test_the_loss_falls_over_rounds(case, task, make_plan):
    data = draw(case, 60)
    model = task.init(Key.root(3))
    spec = spec_of(task, model)
    start = task.evaluate(model, data)["loss"]
    for number in range(8):
        plan = make_plan(epochs=2, batch_size=8, lr=case.lr)
        update = task.train(model, data, plan, KEY.fold(number))
        model = spec.unflatten(spec.flatten(model) + update.delta, {**model, **(update.kept or {})})
    assert task.evaluate(model, data)["loss"] < 0.8 * start


def test_evaluation_is_a_mean_over_examples(case, task, params):
    x, y = draw(case, 300)
    whole = task.evaluate(params, (x, y))
    left = task.evaluate(params, (x[:273], y[:273]))
    right = task.evaluate(params, (x[273:], y[273:]))
    assert {"loss"} < set(whole)
    for name, value in whole.items():
        expected = (left[name] * 273 + right[name] * 27) / 300
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert ("accuracy" in whole) == (case.classes is not None)


def test_bad_input_is_named(case, task, params, make_plan):
    x, y = draw(case)
    with pytest.raises(EmptyClient):
        task.train(params, (x[:0], y[:0]), make_plan(), KEY)
    size = spec_of(task, params).shared_size
    with pytest.raises(WrongShape, match=f"drift.*\\[{size}\\]"):
        task.train(params, (x, y), make_plan(Objective(drift=np.zeros(1, np.float32))), KEY)
    with pytest.raises(WrongShape):
        task.train(Params({"other": np.zeros(2, np.float32)}), (x, y), make_plan(), KEY)
