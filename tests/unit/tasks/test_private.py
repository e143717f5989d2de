"""Private training in NumPy: exact gradients of examples, secret batches, noise where none is."""

import hashlib

import numpy as np
import pytest

from choral.core.errors import EmptyClient, PlanError
from choral.core.keys import Key
from choral.core.plan import Local, RecordPrivacy
from choral.federation.participant import check_record_privacy
from choral.tasks.numpy import LinearTask, per_example_gradients
from choral.tasks.private import private_steps

KEY = Key.root(3)


class Script:
    """A `Rand` whose tokens are known."""

    def __init__(self, name=b"a"):
        self.name, self.asked = name, 0

    def token(self, size):
        self.asked += 1
        return hashlib.sha256(self.name + bytes([self.asked])).digest()[:size]


KINDS = {
    "linear": {"kind": "linear"},
    "binary": {"kind": "logistic"},
    "classes": {"kind": "logistic", "classes": 3},
}


def data(kind, count=12):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(count, 4)).astype(np.float32)
    y = rng.normal(size=count) if kind == "linear" else np.arange(count) % 2
    return x, y.astype(np.float32 if kind == "linear" else np.int64)


def record(z, norm=1.0):
    return RecordPrivacy(norm, z)


def model(task):
    rng = np.random.default_rng(2)
    return [rng.normal(size=a.shape).astype(np.float32) for a in task.init(KEY).values()]


@pytest.mark.parametrize("arguments", KINDS.values(), ids=KINDS)
def test_a_row_is_the_gradient_of_its_own_loss(arguments):
    task = LinearTask(input_dim=4, **arguments)
    x, y = data(arguments["kind"])
    weight, bias = model(task)
    rows = per_example_gradients(task._loss, weight, bias, x=x, y=y)
    flat = np.concatenate([weight.ravel(), bias]).astype(np.float64)

    def losses(w):
        outputs = x.astype(np.float64) @ w[: weight.size].reshape(weight.shape).T + w[weight.size :]
        return task._loss(outputs, y)[0]

    for i, unit in enumerate(np.eye(flat.size) * 1e-3):
        slope = (losses(flat + unit) - losses(flat - unit)) / 2e-3
        assert rows[:, i] == pytest.approx(slope, abs=2e-3)


@pytest.mark.parametrize("arguments", KINDS.values(), ids=KINDS)
def test_a_row_depends_on_its_own_example_to_the_last_bit(arguments):
    task = LinearTask(input_dim=4, **arguments)
    x, y = data(arguments["kind"], 33)
    weight, bias = model(task)
    rows = per_example_gradients(task._loss, weight, bias, x=x, y=y)
    for i in (0, 7, 32):
        one = per_example_gradients(task._loss, weight, bias, x=x[[i]], y=y[[i]])
        assert np.array_equal(one[0], rows[i])


def test_without_noise_or_clip_a_full_batch_is_gradient_descent(make_plan):
    task, x_y = LinearTask("linear", input_dim=4), data("linear")
    start = task.init(KEY)
    plain = task.train(start, x_y, make_plan(steps=3, batch_size=None, lr=0.1), KEY)
    private = make_plan(steps=3, batch_size=None, lr=0.1, record=record(0.0, 1e3))
    found = task.train(start, x_y, private, KEY)
    assert found.delta == pytest.approx(plain.delta, abs=2e-4)
    assert found.weight == plain.weight


def test_no_number_without_noise_leaves(make_plan):
    task, x_y = LinearTask("linear", input_dim=4), data("linear")
    assert not task.train(task.init(KEY), x_y, make_plan(record=record(1.0)), KEY).metrics


def test_penalty_and_pull_come_after_the_noise(make_plan):
    """They depend on no record: clipping them would cost, and they would be clipped away."""
    x_y, rand = data("linear"), Script
    start = LinearTask("linear", input_dim=4).init(KEY)
    start = type(start)({n: a + np.float32(2) for n, a in start.items()})
    plan = make_plan(steps=1, lr=0.5, record=record(1.0, 1e-3))
    bare = LinearTask("linear", input_dim=4, rand=rand()).train(start, x_y, plan, KEY)
    with_l2 = LinearTask("linear", input_dim=4, l2=0.1, rand=rand()).train(start, x_y, plan, KEY)
    assert (with_l2.delta - bare.delta) == pytest.approx([-0.1] * 4 + [0.0], abs=1e-5)


def test_batches_and_noise_are_secret_and_not_the_keys(make_plan):
    task, x_y = LinearTask("linear", input_dim=4), data("linear")
    plan = make_plan(steps=2, batch_size=4, record=record(1.0))
    one, other = (task.train(task.init(KEY), x_y, plan, KEY).delta for _ in range(2))
    assert not np.array_equal(one, other)


def test_a_known_rand_gives_the_same_update(make_plan):
    plan, x_y = make_plan(steps=5, batch_size=4, record=record(1.0)), data("linear")
    tasks = [LinearTask("linear", input_dim=4, rand=Script(n)) for n in (b"a", b"a", b"b")]
    a, again, b = (t.train(t.init(KEY), x_y, plan, KEY).delta for t in tasks)
    assert np.array_equal(a, again)
    assert not np.array_equal(a, b)


def test_an_empty_batch_is_a_step_with_noise_alone(make_plan):
    local = Local(steps=40, batch_size=1, record=record(1.0))
    steps = list(private_steps(local, count=12, dimension=5, rand=Script()))
    empty = next(s for s in steps if not len(s.rows))
    assert len(steps) == 40
    assert empty.gradient([]).all()
    task = LinearTask("linear", input_dim=4, rand=Script())
    update = task.train(task.init(KEY), data("linear"), make_plan(**_fields(local)), KEY)
    assert np.isfinite(update.delta).all()


def _fields(local):
    return {"steps": local.steps, "batch_size": local.batch_size, "record": local.record}


def test_no_two_steps_share_noise():
    local = Local(steps=9, batch_size=4, record=record(1.0))
    noise = [s.noise for s in private_steps(local, count=12, dimension=5, rand=Script())]
    assert len(np.unique(np.array(noise), axis=0)) == 9
    wide = [s.noise for s in private_steps(local, count=12, dimension=40_000, rand=Script())]
    assert not np.array_equal(wide[0], wide[1])


def test_a_row_of_any_size_moves_a_step_by_its_bound_alone(make_plan):
    x, y = data("linear")
    x = np.vstack([x, np.full((1, 4), 1e18, np.float32)])
    y = np.append(y, np.float32(1e18))
    task = LinearTask("linear", input_dim=4)
    plan = make_plan(steps=1, batch_size=None, lr=1.0, record=record(0.0, 0.5))
    moved = task.train(task.init(KEY), (x, y), plan, KEY).delta
    without = task.train(task.init(KEY), (x[:-1], y[:-1]), plan, KEY).delta
    assert np.linalg.norm(13 * moved - 12 * without) <= 0.5 * (1 + 1e-5)


def test_a_client_without_records(make_plan):
    with pytest.raises(EmptyClient):
        next(private_steps(Local(record=record(1.0)), count=0, dimension=5, rand=None))


def test_a_task_that_would_ignore_it_is_refused(make_plan, counting):
    plan = make_plan(record=record(1.0))
    with pytest.raises(PlanError, match="record_privacy = True"):
        check_record_privacy(counting, plan)
    check_record_privacy(LinearTask("linear", input_dim=4), plan)
    check_record_privacy(counting, make_plan())


def test_a_subclass_with_its_own_training_must_say_it_again(make_plan):
    class Silent(LinearTask):
        def train(self, params, data, plan, key):
            raise AssertionError

    class Loud(Silent):
        record_privacy = True

    plan = make_plan(record=record(1.0))
    with pytest.raises(PlanError, match="record_privacy = True"):
        check_record_privacy(Silent("linear", input_dim=4), plan)
    check_record_privacy(Loud("linear", input_dim=4), plan)


def test_scikit_learn_is_refused_by_name(make_plan):
    from sklearn.linear_model import SGDClassifier

    from choral.tasks.sklearn import SklearnTask

    task = SklearnTask(SGDClassifier(), input_dim=4, classes=2)
    plan = make_plan(record=record(1.0))
    with pytest.raises(PlanError, match="SklearnTask"):
        task.train(task.init(KEY), data("logistic"), plan, KEY)
    with pytest.raises(PlanError, match="partial_fit"):
        check_record_privacy(task, plan)
