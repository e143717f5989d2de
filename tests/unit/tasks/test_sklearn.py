import numpy as np
import pytest
from sklearn.linear_model import (
    LogisticRegression,
    Perceptron,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.neural_network import MLPClassifier

from choral.core.errors import ConfigError, DataError
from choral.core.keys import Key
from choral.core.params import Params
from choral.core.plan import Objective
from choral.core.task import spec_of
from choral.tasks.batches import batches
from choral.tasks.sklearn import SklearnTask

KEY = Key.root(6).fold(1, "a", "train")


@pytest.fixture
def data(rng):
    return rng.normal(size=(30, 4)), rng.integers(0, 3, 30)


def test_training_is_partial_fit_over_the_same_batches(make_plan, data):
    task = SklearnTask(SGDClassifier(loss="log_loss"), input_dim=4, classes=3)
    plan = make_plan(epochs=2, batch_size=7, lr=0.1)
    update = task.train(task.init(KEY), data, plan, KEY)
    reference = SGDClassifier(
        loss="log_loss", learning_rate="constant", eta0=0.1, shuffle=False, random_state=0
    )
    rounded = data[0].astype(np.float32).astype(np.float64)
    for x, y in batches((rounded, data[1]), plan.local, KEY):
        reference.partial_fit(x, y, classes=[0, 1, 2])
    expected = np.concatenate([reference.coef_.reshape(-1), reference.intercept_])
    np.testing.assert_array_equal(update.delta, expected.astype(np.float32))


def test_one_example_by_hand_with_pull(make_plan):
    task = SklearnTask(SGDRegressor(alpha=0.0), input_dim=1)
    params = Params({"coef_": np.array([2.0], np.float32), "intercept_": np.ones(1, np.float32)})
    objective = Objective(mu=1.0, anchor=np.zeros(2, np.float32), drift=np.ones(2, np.float32))
    plan = make_plan(objective, batch_size=1, lr=0.5)
    # Error 2 * 3 + 1 - 5 = 2; gradient (6, 2), pull (2, 1), drift (1, 1).
    update = task.train(params, (np.array([[3.0]]), np.array([5.0])), plan, KEY)
    assert update.delta.tolist() == [-4.5, -2.0]
    assert update.metrics == {"train_loss": 4.0}


def test_the_estimator_is_never_changed(make_plan, data):
    estimator = SGDClassifier(loss="log_loss")
    before = vars(estimator).copy()
    task = SklearnTask(estimator, input_dim=4, classes=3)
    first = task.train(task.init(KEY), data, make_plan(), KEY)
    assert vars(estimator) == before
    estimator.set_params(alpha=10.0)
    assert np.array_equal(task.train(task.init(KEY), data, make_plan(), KEY).delta, first.delta)


def test_labels_may_be_any_numbers(make_plan, rng):
    task = SklearnTask(SGDClassifier(class_weight={-1: 3.0, 1: 1.0}), input_dim=2, classes=[-1, 1])
    x = rng.normal(size=(40, 2))
    y = np.where(x[:, 0] > 0, 1, -1)
    update = task.train(task.init(KEY), (x, y), make_plan(epochs=30, lr=0.1), KEY)
    spec = spec_of(task, task.init(KEY))
    model = spec.unflatten(update.delta, {})
    assert task.evaluate(model, (x, y))["accuracy"] > 0.9
    with pytest.raises(DataError, match="label 0 is not one of the 2 classes -1, 1"):
        task.train(task.init(KEY), (x, np.zeros(40, int)), make_plan(), KEY)


def test_a_client_with_one_class_trains(make_plan, data):
    task = SklearnTask(SGDClassifier(), input_dim=4, classes=3)
    task.train(task.init(KEY), (data[0], np.ones(30, int)), make_plan(), KEY)


def test_losses_by_hand():
    x, y = np.array([[2.0], [-1.0]]), np.array([1, 1])
    params = Params({"coef_": np.ones((1, 1), np.float32), "intercept_": np.zeros(1, np.float32)})
    hinge = SklearnTask(SGDClassifier(), input_dim=1, classes=2).evaluate(params, (x, y))
    assert hinge == {"loss": 1.0, "accuracy": 0.5}
    log_loss = SklearnTask(SGDClassifier(loss="log_loss"), input_dim=1, classes=2)
    expected = np.mean(np.log1p(np.exp([-2.0, 1.0])))
    assert log_loss.evaluate(params, (x, y))["loss"] == pytest.approx(expected)
    three = Params({"coef_": np.zeros((3, 1), np.float32), "intercept_": np.ones(3, np.float32)})
    rest = SklearnTask(Perceptron(), input_dim=1, classes=3).evaluate(three, (x, y))
    assert rest["loss"] == 0 + 2 + 2


def test_an_intercept_that_is_not_fitted_stays_at_zero(make_plan, data):
    task = SklearnTask(SGDClassifier(fit_intercept=False), input_dim=4, classes=3)
    params = task.init(KEY)
    spec = spec_of(task, params)
    assert spec.names("frozen") == ("intercept_",)
    objective = Objective(drift=np.ones(12, np.float32))
    update = task.train(params, data, make_plan(objective), KEY)
    update.check(spec)


def test_a_constant_rate_is_a_default():
    def defaults(estimator):
        return SklearnTask(estimator, input_dim=1, classes=2).local_defaults

    assert defaults(SGDClassifier(learning_rate="constant", eta0=0.3)) == {"lr": 0.3}
    assert defaults(SGDClassifier()) == {}


@pytest.mark.parametrize(
    ("estimator", "arguments", "message"),
    [
        (LogisticRegression(), {}, "LogisticRegression is not supported.*SGDClassifier"),
        (MLPClassifier(), {}, "for a neural network use TorchTask"),
        (SGDClassifier, {}, r"class SGDClassifier.*write `SGDClassifier\(\)`"),
        (SGDClassifier(), {"input_dim": None}, "SGDClassifier needs input_dim"),
        (SGDClassifier(), {"input_dim": "4"}, "input_dim '4': expected a whole number from 1"),
        (SGDClassifier(), {"input_dim": 0}, "input_dim 0"),
        (SGDClassifier(), {"classes": True}, "classes True"),
        (SGDClassifier(), {"classes": None}, "SGDClassifier needs classes"),
        (SGDClassifier(), {"classes": 1}, "classes 1: expected a whole number from 2"),
        (SGDClassifier(), {"classes": [1, 0]}, "ascending"),
        (SGDClassifier(), {"classes": ["a", "b"]}, "at least two numbers"),
        (SGDRegressor(), {}, "SGDRegressor, which is a regressor"),
        (SGDClassifier(average=True), {}, "average=True cannot be trained in rounds"),
        (SGDClassifier(early_stopping=True), {}, "leave out `early_stopping`"),
        (SGDClassifier(class_weight="balanced"), {}, "class_weight='balanced'"),
    ],
)
def test_what_is_not_supported_is_named(estimator, arguments, message):
    with pytest.raises(ConfigError, match=message):
        SklearnTask(estimator, **{"input_dim": 4, "classes": 2, **arguments})
