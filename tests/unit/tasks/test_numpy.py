import numpy as np
import pytest
import torch
from torch.nn import functional

from choral.core.errors import ConfigError, DataError, UnknownName
from choral.core.keys import Key
from choral.core.params import Params
from choral.tasks.numpy import LinearTask, cross_entropy, log_odds, squared_error
from choral.tasks.torch import TorchTask

KEY = Key.root(1).fold(1, "a", "train")


def test_one_step_of_linear_regression_by_hand(make_plan):
    task = LinearTask("linear", input_dim=1)
    params = Params({"weight": np.array([[2.0]], np.float32), "bias": np.array([1.0], np.float32)})
    data = np.array([[1.0], [3.0]]), np.array([1.0, 3.0])
    # Errors 2 and 4: loss (4 + 16) / 2; slopes 2 * (2 * 1 + 4 * 3) / 2 and 2 * (2 + 4) / 2.
    update = task.train(params, data, make_plan(batch_size=None, lr=0.5), KEY)
    assert update.delta.tolist() == [-7.0, -3.0]
    assert update.metrics == {"train_loss": 10.0}
    assert task.evaluate(params, data) == {"loss": 10.0, "mae": 3.0}


def test_train_loss_is_weighted_by_batch_size(make_plan):
    task = LinearTask("linear", input_dim=1)
    data = np.zeros((3, 1)), np.array([1.0, 2.0, 3.0])
    update = task.train(task.init(KEY), data, make_plan(batch_size=2, lr=1e-30, shuffle=False), KEY)
    assert update.metrics["train_loss"] == pytest.approx((1 + 4 + 9) / 3)


def test_penalty_pulls_the_weight_and_not_the_bias(make_plan):
    params = Params({"weight": np.array([[4.0]], np.float32), "bias": np.array([1.0], np.float32)})
    data = np.array([[1.0]]), np.array([0.0])
    plan = make_plan(batch_size=None, lr=1.0)
    plain, penalised = (
        LinearTask("linear", input_dim=1, l2=l2).train(params, data, plan, KEY) for l2 in (0.0, 0.5)
    )
    assert (penalised.delta - plain.delta).tolist() == [-2.0, 0.0]
    assert penalised.metrics == plain.metrics


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_equals_pytorch(make_plan, rng, classes):
    outputs = 1 if classes == 2 else classes
    loss = functional.binary_cross_entropy_with_logits if classes == 2 else functional.cross_entropy
    ours = LinearTask("logistic", input_dim=5, classes=classes)
    theirs = TorchTask(lambda: torch.nn.Linear(5, outputs), loss)
    params = theirs.init(KEY)
    data = rng.normal(size=(30, 5)), rng.integers(0, classes, 30)
    plan = make_plan(epochs=3, batch_size=7, lr=0.5)
    a, b = (task.train(params, data, plan, KEY) for task in (ours, theirs))
    np.testing.assert_allclose(a.delta, b.delta, atol=1e-5)
    assert a.metrics["train_loss"] == pytest.approx(b.metrics["train_loss"], rel=1e-5)
    p, q = (task.evaluate(params, data) for task in (ours, theirs))
    assert p == pytest.approx(q, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "outputs", "targets"),
    [
        (squared_error, 1, np.array([0.5, -1.0, 2.0], np.float32)),
        (log_odds, 1, np.array([0, 1, 1])),
        (cross_entropy, 3, np.array([0, 2, 1])),
    ],
)
def test_derivatives_against_differences(loss, outputs, targets, rng):
    z = rng.normal(size=(3, outputs))
    _, slope = loss(z, targets)
    for column in range(outputs):
        step = np.zeros((1, outputs))
        step[0, column] = 1e-5
        difference = (loss(z + step, targets)[0] - loss(z - step, targets)[0]) / 2e-5
        np.testing.assert_allclose(slope[:, column], difference, atol=1e-6)


def test_extreme_outputs_do_not_overflow():
    z = np.array([[1e4], [-1e4]], np.float32)
    with np.errstate(over="raise", invalid="raise"):
        losses, slope = log_odds(z, np.array([0, 0]))
        wide, _ = cross_entropy(np.hstack([z, -z, z]), np.array([1, 1]))
    assert losses.tolist() == [1e4, 0.0]
    assert slope.tolist() == [[1.0], [0.0]]
    assert wide[0] == pytest.approx(2e4 + np.log(2))


def test_accuracy_by_hand():
    task = LinearTask("logistic", input_dim=1)
    params = Params({"weight": np.ones((1, 1), np.float32), "bias": np.zeros(1, np.float32)})
    metrics = task.evaluate(params, (np.array([[1.0], [-1.0], [2.0]]), np.array([1, 1, 1.0])))
    assert metrics["accuracy"] == pytest.approx(2 / 3)


def test_wrong_data_is_named(make_plan):
    task = LinearTask("logistic", input_dim=2, classes=3)
    with pytest.raises(DataError, match=r"5 features.*input_dim is 2"):
        task.train(task.init(KEY), (np.zeros((3, 5)), np.zeros(3)), make_plan(), KEY)
    with pytest.raises(DataError, match="label 3"):
        task.evaluate(task.init(KEY), (np.zeros((1, 2)), np.array([3])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs input_dim"),
        ({"input_dim": 0}, "input_dim 0"),
        ({"input_dim": 1, "classes": 3}, "use kind `logistic`"),
        ({"kind": "logistic", "input_dim": 1, "classes": 1}, "classes 1"),
        ({"input_dim": 1, "l2": -1.0}, "l2 -1.0"),
        ({"input_dim": 1, "l2": float("nan")}, "l2 nan"),
        ({"input_dim": 1, "l2": "0"}, "l2 '0': expected a finite number of at least 0"),
        ({"input_dim": 2.0}, "input_dim 2.0: expected a whole number from 1"),
        ({"input_dim": True}, "input_dim True"),
        ({"kind": "logistic", "input_dim": 1, "classes": "3"}, "classes '3'"),
        ({"kind": None, "input_dim": 1}, "kind None: expected `linear` or `logistic`"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        LinearTask(**arguments)


def test_unknown_kind_names_the_nearest():
    with pytest.raises(UnknownName, match="did you mean `logistic`"):
        LinearTask("logistics", input_dim=1)
