"""Private training in PyTorch: Opacus's gradients, our noise, and layers that cannot be private."""

import hashlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from choral.core.errors import ConfigError, PlanError
from choral.core.keys import Key
from choral.core.plan import Objective, RecordPrivacy
from choral.tasks.numpy import LinearTask
from choral.tasks.torch import TorchTask
from choral.tasks.torch_private import _taken, check_private_layers, per_example

KEY = Key.root(3)
ENTROPY = functional.cross_entropy


class Script:
    """A `Rand` whose tokens are known."""

    def __init__(self):
        self.asked = 0

    def token(self, size):
        self.asked += 1
        return hashlib.sha256(bytes([self.asked])).digest()[:size]


def data(count=12, shape=(4,)):
    rng = np.random.default_rng(1)
    return rng.normal(size=(count, *shape)).astype(np.float32), np.arange(count) % 2


def net():
    return nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(2, 6), nn.Tanh(), nn.Linear(6, 2))


def conv():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))


class Scaled(nn.Module):
    """A layer that Opacus has no rule for."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.unused = nn.Parameter(torch.ones(3))
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return self.last(x * self.scale)


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize(("model", "shape"), [(net, (4,)), (conv, (1, 4, 4))])
def test_rows_are_the_gradients_of_each_example(model, shape):
    task = TorchTask(model, ENTROPY)
    replica = task._replica
    module = replica.mode(training=True)
    x, y = (torch.from_numpy(a) for a in data(5, shape))
    with per_example(module):
        ENTROPY(module(x), y).backward()
        rows = _taken(replica, 5)
    for i in range(5):
        module.zero_grad()
        ENTROPY(module(x[i : i + 1]), y[i : i + 1]).backward()
        one = torch.cat([p.grad.ravel() for p in module.parameters()])
        assert rows[i] == pytest.approx(one.numpy(), abs=1e-6)


def test_the_same_noise_gives_what_numpy_gives(make_plan):
    plan = make_plan(
        Objective(mu=0.3), steps=15, batch_size=4, lr=0.1, record=RecordPrivacy(0.5, 1.1)
    )
    loss = functional.binary_cross_entropy_with_logits
    ours = LinearTask("logistic", input_dim=4, rand=Script())
    theirs = TorchTask(lambda: nn.Linear(4, 1), loss, rand=Script())
    start = ours.init(KEY)
    one, other = (t.train(start, data(), plan, KEY) for t in (ours, theirs))
    assert one.delta == pytest.approx(other.delta, abs=1e-6)
    assert (other.weight, dict(other.metrics)) == (12.0, {})


def test_nothing_of_opacus_is_left_in_the_model(make_plan):
    """Its wrapper's names have `_module.` before them; plain training goes on without its hooks."""
    task = TorchTask(net, ENTROPY, lr=0.1)
    start = task.init(KEY)
    before = task.train(start, data(), make_plan(), KEY)
    private = make_plan(steps=2, batch_size=3, record=RecordPrivacy(1.0, 1.0))
    update = task.train(start, data(), private, KEY)
    update.check(task._replica.spec)
    assert not any("_module" in name for name in task._replica.module.state_dict())
    assert not any(m._forward_hooks for m in task._replica.module.modules())
    after = task.train(start, data(), make_plan(), KEY)
    assert np.array_equal(before.delta, after.delta)


def test_empty_batches_unused_tensors_and_layers_without_a_rule(make_plan):
    task = TorchTask(Scaled, ENTROPY, optimizer="adam")
    plan = make_plan(steps=8, batch_size=1, record=RecordPrivacy(1.0, 1.0))
    update = task.train(task.init(KEY), data(6), plan, KEY)
    assert np.isfinite(update.delta).all()
    assert update.delta.all()  # the unused tensor gets noise, too


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.norm(x))


def test_batch_norm_is_refused_by_its_name(make_plan):
    task = TorchTask(Normed, ENTROPY)
    plan = make_plan(record=RecordPrivacy(1.0, 1.0))
    with pytest.raises(PlanError, match=r"`norm` is BatchNorm1d") as caught:
        task.train(task.init(KEY), data(), plan, KEY)
    assert "GroupNorm" in caught.value.hint


def test_other_layers_that_mix_or_are_not_known():
    check_private_layers(nn.InstanceNorm1d(4))
    with pytest.raises(PlanError, match="InstanceNorm1d"):
        check_private_layers(nn.InstanceNorm1d(4, track_running_stats=True))
    with pytest.raises(PlanError, match="LSTM"):
        check_private_layers(nn.LSTM(4, 4))


class Counting(nn.Module):
    """Its buffers see the data: one travels, one is a count."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.register_buffer("seen", torch.zeros(4))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.seen += x.detach().mean(dim=0)
            self.batches += 1
        return self.last(x)


def test_buffers_are_never_noised_and_may_not_learn(make_plan):
    plan = make_plan(steps=2, batch_size=None, record=RecordPrivacy(1.0, 1.0))
    task = TorchTask(Counting, ENTROPY)
    with pytest.raises(PlanError, match="`seen`"):
        task.train(task.init(KEY), data(), plan, KEY)
    kept = TorchTask(Counting, ENTROPY, roles={"seen": "frozen"})
    update = kept.train(kept.init(KEY), data(), plan, KEY)
    assert update.delta.size == 10  # the parameters alone


def test_a_loss_that_is_no_number(make_plan):
    task = TorchTask(net, lambda o, y: functional.cross_entropy(o, y, reduction="none"))
    plan = make_plan(batch_size=None, record=RecordPrivacy(1.0, 1.0))
    with pytest.raises(ConfigError, match="expected one number"):
        task.train(task.init(KEY), data(), plan, KEY)
