import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from choral.core.errors import ConfigError, UnknownName
from choral.core.keys import Key
from choral.core.params import Params
from choral.core.plan import Objective
from choral.core.task import spec_of
from choral.core.update import Update
from choral.tasks.batches import batches
from choral.tasks.torch import TorchTask

KEY = Key.root(6).fold(1, "a", "train")
ENTROPY = functional.cross_entropy


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def data(rng):
    return rng.normal(size=(23, 5)).astype(np.float32), rng.integers(0, 3, 23)


def loop(model, data, plan, key, make_optimizer):
    """Train as a hand-written loop does; return the model's new arrays."""
    optimizer = make_optimizer(model.parameters())
    model.train()
    for x, y in batches(data, plan.local, key):
        optimizer.zero_grad()
        ENTROPY(model(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        optimizer.step()
    return {n: t.numpy() for n, t in model.state_dict().items()}


@pytest.mark.parametrize(
    ("arguments", "make_optimizer"),
    [
        ({}, functools.partial(torch.optim.SGD, lr=0.3)),
        ({"momentum": 0.9}, functools.partial(torch.optim.SGD, lr=0.3, momentum=0.9)),
        ({"optimizer": "adam"}, functools.partial(torch.optim.Adam, lr=0.3)),
        (
            {"optimizer": functools.partial(torch.optim.SGD, weight_decay=0.1)},
            functools.partial(torch.optim.SGD, lr=0.3, weight_decay=0.1),
        ),
    ],
    ids=["sgd", "momentum", "adam", "callable"],
)
@pytest.mark.parametrize("shuffle", [False, True])
def test_training_is_a_hand_written_loop_bit_for_bit(
    make_plan, data, arguments, make_optimizer, shuffle
):
    plan = make_plan(epochs=3, batch_size=4, lr=0.3, shuffle=shuffle)
    torch.manual_seed(6)
    model = net()
    old = {n: t.numpy().copy() for n, t in model.state_dict().items()}
    task = TorchTask(net, ENTROPY, **arguments)
    params = task.init(KEY)
    new = loop(model, data, plan, KEY, make_optimizer)
    expected = Update.between(spec_of(task, params), old, new, weight=23.0, metrics={})
    for _ in range(2):  # momentum and moments start anew
        assert task.train(params, data, plan, KEY).delta.tobytes() == expected.delta.tobytes()


@pytest.mark.parametrize("seed", [0, 42, 2**63, 2**64 - 1])
def test_first_weights_are_those_of_manual_seed(seed):
    task = TorchTask(lambda: nn.Linear(13, 1), functional.mse_loss)
    params = task.init(Key.root(seed).fold("init"))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = nn.Linear(13, 1)
    assert np.array_equal(params["weight"], expected.weight.detach().numpy())
    assert np.array_equal(params["bias"], expected.bias.detach().numpy())


def test_global_generators_are_left_alone(make_plan, data):
    def model():
        return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3))

    task = TorchTask(model, ENTROPY)
    before = torch.get_rng_state()
    params = task.init(KEY)
    task.train(params, data, make_plan(), KEY)
    task.evaluate(params, data)
    assert torch.equal(torch.get_rng_state(), before)

    def fail(output, target):
        torch.rand(1)
        raise RuntimeError("no loss today")

    with pytest.raises(RuntimeError, match="no loss today"):
        TorchTask(model, fail).train(params, data, make_plan(), KEY)
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_follows_the_key_and_not_the_global_generator(make_plan, data):
    task = TorchTask(lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 3)), ENTROPY)
    params = task.init(KEY)
    plan = make_plan(batch_size=None, shuffle=False)
    first = task.train(params, data, plan, KEY).delta
    torch.rand(7)
    assert np.array_equal(task.train(params, data, plan, KEY).delta, first)
    assert not np.array_equal(task.train(params, data, plan, KEY.fold("x")).delta, first)
    assert task.evaluate(params, data) == task.evaluate(params, data)


def test_train_loss_is_weighted_by_batch_size(make_plan):
    task = TorchTask(lambda: nn.Linear(1, 1, bias=False), functional.mse_loss)
    params = Params({"weight": np.zeros((1, 1), np.float32)})
    data = np.ones((3, 1), np.float32), np.array([1.0, 2.0, 3.0])
    plan = make_plan(batch_size=2, lr=1e-30, shuffle=False)
    update = task.train(params, data, plan, KEY)
    assert update.metrics == {"train_loss": pytest.approx((1 + 4 + 9) / 3)}


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(2, momentum=0.5)
        self.out = nn.Linear(2, 2)

    def forward(self, x):
        return self.out(self.bn(x))


def test_batch_norm_sends_its_statistics_as_buffers(make_plan):
    task = TorchTask(Normed, ENTROPY)
    params = task.init(KEY)
    spec = spec_of(task, params)
    assert spec.names("buffer") == ("bn.running_mean", "bn.running_var", "bn.num_batches_tracked")
    assert params["bn.num_batches_tracked"].dtype == np.int64
    x = np.array([[2.0, 0.0], [4.0, 0.0]], np.float32)
    plan = make_plan(steps=3, batch_size=None, lr=1e-30)
    update = task.train(params, (x, np.array([0, 1])), plan, KEY)
    mean, variance = update.delta[-4:-2], update.delta[-2:]
    np.testing.assert_allclose(mean, [3 * (1 - 0.5**3), 0.0], rtol=1e-6)
    np.testing.assert_allclose(variance, [(2 - 1) * (1 - 0.5**3), -1 + 0.5**3], rtol=1e-6)
    moved = spec.unflatten(spec.flatten(params) + update.delta, params)
    again = task.train(moved, (x, np.array([0, 1])), plan, KEY)
    np.testing.assert_allclose(again.delta[-4:-2], mean * 0.5**3, rtol=1e-5)
    assert np.array_equal(task.train(params, (x, np.array([0, 1])), plan, KEY).delta, update.delta)


def test_a_counter_starts_every_round_from_its_received_value(make_plan):
    task = TorchTask(Normed, ENTROPY, roles={"bn.num*": "personal"})
    params = task.init(KEY)
    data = np.eye(2, dtype=np.float32), np.array([0, 1])
    for _ in range(2):
        kept = task.train(params, data, make_plan(steps=3), KEY).kept
        assert kept is not None
        assert kept["bn.num_batches_tracked"] == 3
    overlaid = Params({**params, **kept})
    kept = task.train(overlaid, data, make_plan(steps=3), KEY).kept
    assert kept is not None
    assert kept["bn.num_batches_tracked"] == 6


def test_evaluation_uses_the_received_statistics(make_plan, rng):
    task = TorchTask(Normed, ENTROPY)
    params = task.init(KEY)
    data = rng.normal(5, 2, size=(20, 2)).astype(np.float32), rng.integers(0, 2, 20)
    before = task.evaluate(params, data)
    task.train(params, data, make_plan(), KEY)
    assert task.evaluate(params, data) == before


def test_fedbn_is_a_choice_of_roles(make_plan, rng):
    task = TorchTask(Normed, ENTROPY, roles={"bn.*": "personal"})
    params = task.init(KEY)
    spec = spec_of(task, params)
    data = rng.normal(size=(20, 2)).astype(np.float32), rng.integers(0, 2, 20)
    update = task.train(params, data, make_plan(lr=0.5), KEY)
    assert update.delta.size == spec.vector_size == 6
    assert update.kept is not None
    assert list(update.kept) == [n for n in params if n.startswith("bn.")]
    assert update.kept["bn.num_batches_tracked"] == 1
    assert not np.array_equal(update.kept["bn.weight"], params["bn.weight"])


class Replacing(nn.Module):
    """A module that puts a new tensor in its buffers' place instead of changing them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("hidden", torch.zeros(1), persistent=False)
        self.register_buffer("counted", torch.zeros(1), persistent=False)
        self.out = nn.Linear(2, 2)

    def forward(self, x):
        self.seen = self.seen + len(x)
        self.hidden = self.hidden + 1
        self.counted.add_(1)
        return self.out(x) * self.hidden * self.counted


def test_replaced_and_unsaved_buffers_start_anew(make_plan):
    task = TorchTask(Replacing, ENTROPY)
    params = task.init(KEY)
    assert list(params) == ["seen", "out.weight", "out.bias"]
    data = np.ones((4, 2), np.float32), np.zeros(4, np.int64)
    plan = make_plan(steps=2, batch_size=None)
    first = task.train(params, data, plan, KEY)
    assert first.delta[-1] == 8
    assert np.array_equal(task.train(params, data, plan, KEY).delta, first.delta)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 4, bias=False)
        self.decoder = nn.Linear(4, 4, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, x):
        return self.decoder(torch.tanh(self.encoder(x)))


def test_tied_weights_appear_once_and_stay_tied(make_plan, rng):
    task = TorchTask(Tied, functional.mse_loss)
    params = task.init(KEY)
    assert list(params) == ["encoder.weight"]
    x = rng.normal(size=(6, 4)).astype(np.float32)
    update = task.train(params, (x, x), make_plan(batch_size=None, lr=0.5), KEY)
    w = torch.tensor(params["encoder.weight"], requires_grad=True)
    functional.mse_loss(torch.tanh(torch.tensor(x) @ w.T) @ w.T, torch.tensor(x)).backward()
    np.testing.assert_allclose(update.delta, -0.5 * w.grad.numpy().reshape(-1), atol=1e-6)
    with pytest.raises(ConfigError, match=r"name the tensor it is tied to: `encoder.weight`"):
        TorchTask(Tied, functional.mse_loss, roles={"decoder.*": "personal"}).roles  # noqa: B018


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 5)
        self.body.weight.requires_grad = False
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.body(x))


@pytest.mark.parametrize("optimizer", ["sgd", functools.partial(torch.optim.SGD, weight_decay=1)])
def test_frozen_parameters_do_not_move(make_plan, data, optimizer):
    task = TorchTask(Frozen, ENTROPY, optimizer=optimizer, roles={"body.bias": "frozen"})
    params = task.init(KEY)
    spec = spec_of(task, params)
    assert spec.names("frozen") == ("body.weight", "body.bias")
    update = task.train(params, data, make_plan(lr=0.5), KEY)
    assert update.delta.size == 18
    assert update.kept is None
    for name in spec.names("frozen"):
        now = task._replica.module.get_parameter(name).detach().numpy()
        assert np.array_equal(now, params[name])


def test_a_role_may_thaw_a_parameter(make_plan, data):
    task = TorchTask(Frozen, ENTROPY, roles={"body.weight": "shared"})
    params = task.init(KEY)
    assert np.any(task.train(params, data, make_plan(), KEY).delta[:25])


def test_a_model_frozen_whole_is_refused():
    with pytest.raises(ConfigError, match="all of them are frozen"):
        TorchTask(net, ENTROPY, roles={"*": "frozen"}).roles  # noqa: B018


def test_a_personal_head_is_trained_and_kept(make_plan, data):
    plan = make_plan(epochs=2, batch_size=5, lr=0.2)
    whole = TorchTask(net, ENTROPY)
    task = TorchTask(net, ENTROPY, roles={"2.*": "personal"})
    params = task.init(KEY)
    expected, update = (t.train(params, data, plan, KEY) for t in (whole, task))
    assert np.array_equal(update.delta, expected.delta[: 5 * 8 + 8])
    assert update.kept is not None
    head = np.concatenate([(update.kept[n] - params[n]).reshape(-1) for n in update.kept])
    np.testing.assert_allclose(head, expected.delta[48:], atol=1e-6)


def test_the_objective_pulls_shared_tensors_alone(make_plan, data):
    task = TorchTask(net, ENTROPY, roles={"0.weight": "personal", "0.bias": "frozen"})
    params = task.init(KEY)
    size = spec_of(task, params).shared_size
    drift = np.arange(size, dtype=np.float32)
    local = {"steps": 1, "batch_size": None, "lr": 0.5, "shuffle": False}
    plain = task.train(params, data, make_plan(**local), KEY)
    pulled = task.train(params, data, make_plan(Objective(drift=drift), **local), KEY)
    np.testing.assert_allclose(pulled.delta - plain.delta, -0.5 * drift, rtol=1e-5, atol=1e-5)
    assert np.array_equal(pulled.kept["0.weight"], plain.kept["0.weight"])


class Scalars(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(()))
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.a + self.b


def test_mu_does_not_hold_personal_tensors(make_plan):
    task = TorchTask(Scalars, lambda output, target: output.sum(), roles={"b": "personal"})
    data = np.zeros((1, 1), np.float32), np.zeros(1, np.float32)
    update = task.train(task.init(KEY), data, make_plan(Objective(mu=1.0), steps=2, lr=0.5), KEY)
    # The gradient of both is 1; the second step of `a` is pulled back by mu * 0.5.
    assert update.delta.tolist() == [-0.75]
    assert update.kept is not None
    assert update.kept["b"] == -1.0


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(5, 3)
        self.unused = nn.Linear(2, 1)

    def forward(self, x):
        return self.used(x)


def test_a_parameter_without_gradient_moves_by_the_pull_alone(make_plan, data):
    task = TorchTask(Unused, ENTROPY)
    params = task.init(KEY)
    local = {"steps": 1, "lr": 0.5}
    assert not task.train(params, data, make_plan(**local), KEY).delta[18:].any()
    drift = np.full(21, 2.0, np.float32)
    update = task.train(params, data, make_plan(Objective(drift=drift), **local), KEY)
    np.testing.assert_allclose(update.delta[18:], -1.0, rtol=1e-6)


def test_delta_equals_that_of_update_between(make_plan, rng):
    task = TorchTask(lambda: Normed().double(), ENTROPY)
    params = task.init(KEY)
    data = rng.normal(size=(9, 2)), rng.integers(0, 2, 9)
    update = task.train(params, data, make_plan(lr=0.5), KEY)
    new = {n: t.numpy() for n, t in task._replica.module.state_dict().items()}
    expected = Update.between(spec_of(task, params), params, new, weight=9.0, metrics={})
    assert np.array_equal(update.delta, expected.delta)


@pytest.mark.parametrize("channels_last", [False, True])
def test_convolutions(make_plan, rng, channels_last):
    def model():
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))

    data = rng.normal(size=(6, 2, 4, 4)).astype(np.float32), rng.integers(0, 3, 6)
    plan = make_plan(batch_size=3, lr=0.2)
    plain = TorchTask(model, ENTROPY)
    task = TorchTask(model, ENTROPY, channels_last=channels_last)
    params = task.init(KEY)
    expected = plain.train(params, data, plan, KEY).delta
    np.testing.assert_allclose(task.train(params, data, plan, KEY).delta, expected, atol=1e-6)
    assert task.evaluate(params, data) == pytest.approx(plain.evaluate(params, data), rel=1e-5)


def test_local_defaults_are_those_given():
    assert TorchTask(net, ENTROPY).local_defaults == {}
    task = TorchTask(net, ENTROPY, lr=0.1, batch_size=20, epochs=2)
    assert task.local_defaults == {"lr": 0.1, "batch_size": 20, "epochs": 2}


def test_training_reads_the_plan_and_not_the_defaults(make_plan, data):
    task, other = TorchTask(net, ENTROPY, lr=9.0, batch_size=1), TorchTask(net, ENTROPY)
    params = task.init(KEY)
    a, b = (t.train(params, data, make_plan(), KEY).delta for t in (task, other))
    assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"optimizer": "adma"}, UnknownName, "did you mean `adam`"),
        ({"momentum": 1.0}, ConfigError, "momentum 1.0"),
        ({"momentum": "0.9"}, ConfigError, "momentum '0.9'"),
        ({"lr": 0}, ConfigError, "lr 0: expected a finite number above 0"),
        ({"lr": "0.1"}, ConfigError, "lr '0.1'"),
        ({"batch_size": 2.5}, ConfigError, "batch_size 2.5"),
        ({"epochs": True}, ConfigError, "epochs True"),
        ({"momentum": 0.9, "optimizer": "adam"}, ConfigError, "goes with `sgd`"),
        ({"model": 3}, ConfigError, "model is int, expected a callable"),
        ({"loss": "mse"}, ConfigError, "loss is str, expected a callable"),
    ],
)
def test_bad_arguments_are_named(arguments, kind, message):
    with pytest.raises(kind, match=message):
        TorchTask(**{"model": net, "loss": ENTROPY, **arguments})


def test_a_loss_that_is_no_number_is_named(make_plan, data):
    task = TorchTask(net, functools.partial(ENTROPY, reduction="none"))
    with pytest.raises(ConfigError, match=r"loss has shape \[23\].*return the mean"):
        task.train(task.init(KEY), data, make_plan(), KEY)


class Bfloat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))


class Counting(nn.Linear):
    def get_extra_state(self) -> int:
        return 3

    def set_extra_state(self, state: int) -> None:
        pass


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Bfloat, "tensor `w` has dtype bfloat16.*use float32"),
        (lambda: nn.LazyLinear(2), "`weight` has no shape yet"),
        (lambda: Counting(1, 1), "state `_extra_state` is int"),
        (lambda: 3, r"model\(\) returned int"),
        (nn.Module, "no parameter of the model is trained"),
    ],
)
def test_models_that_cannot_be_federated_are_named(model, message):
    with pytest.raises(ConfigError, match=message):
        TorchTask(model, ENTROPY).roles  # noqa: B018


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"heed.*": "personal"}, "`heed.\\*` matches no tensor"),
        ({"head.*": "personel"}, "did you mean `personal`"),
    ],
)
def test_bad_roles_are_named(roles, message):
    with pytest.raises(ConfigError, match=message):
        TorchTask(Frozen, ENTROPY, roles=roles).roles  # noqa: B018


def test_later_roles_win_over_earlier_ones():
    task = TorchTask(net, ENTROPY, roles={"*": "personal", "0.*": "shared"})
    assert {n: r.value for n, r in task.roles.items()} == {
        "0.weight": "shared",
        "0.bias": "shared",
        "2.weight": "personal",
        "2.bias": "personal",
    }
