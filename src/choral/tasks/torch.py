"""Any PyTorch module as a task."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

from choral.core.errors import ConfigError, MissingExtra

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise MissingExtra(
        "TorchTask needs PyTorch, which is not installed", hint="pip install 'choral[torch]'"
    ) from None

from choral.core.keys import Key
from choral.core.params import Params, Role
from choral.core.plan import Local, Plan
from choral.core.ports import Rand
from choral.core.update import Update
from choral.tasks.torch_data import examples
from choral.tasks.torch_fit import fit, measure
from choral.tasks.torch_metrics import Loss, Metric
from choral.tasks.torch_private import check_mixing_layers, fit_privately
from choral.tasks.torch_replica import Model, Replica, exact, first_params, seeded
from choral.tasks.torch_step import Optimiser, stepper


class TorchTask:
    """Local training of a PyTorch module.

    The model's tensors are those of its `state_dict`, in that order; a tensor with two names (tied
    weights) appears once, under the first, and stays tied. Roles follow from the module: parameters
    are shared, those with `requires_grad=False` frozen, buffers are buffers. `roles` changes them.

    Data is `(X, y)`, arrays or tensors of any shape that the module takes, or a dataset with a
    length whose items are pairs, such as a list of them. Floating values take the dtype of the
    model; whole-number targets become int64. Where the module gives one output for each target,
    such as `[n, 1]` for `[n]`, the output takes the target's shape and the target the output's
    dtype before the loss sees them. The last batch of a pass may be short; BatchNorm refuses one
    that holds a single example.

    `evaluate` reports `loss`, and by itself `accuracy` where targets are classes (largest output;
    or, with a single output and targets 0 and 1, output > 0) and `mse` and `mae` where they are
    other numbers.

    Guarantees:
        Equal arguments give bit-equal updates on the CPU with the same number of threads: dropout
        and other draws from PyTorch's generators follow the key, and the generators are left as
        they were found. Optimiser state starts anew in every round. Clients' arrays are only read.

    One module is built per process and reused, so a task serves one thread at a time.

    Args:
        model: Class or function that builds the module, called without arguments.
        loss: Given output and target of a batch, returns the mean over the batch.
        optimizer: `sgd`, `adam`, or a callable given the parameters and `lr=`, such as
            `functools.partial(torch.optim.SGD, weight_decay=1e-4)`.
        lr: Learning rate of this task; like `batch_size` and `epochs` it is a default that the
            federation's `local` overrides, see `local_defaults`.
        batch_size: Examples per step.
        epochs: Passes per round.
        momentum: Momentum of `sgd`, 0 to below 1.
        metrics: Further metrics: name to a function of output and target of a batch that returns
            the mean over the batch.
        roles: Tensor name or glob pattern to role, such as `{"head.*": "personal"}`; a later entry
            wins.
        channels_last: Lay out images and kernels with channels last, which is often faster for
            convolutions on a CPU.
        device: Where to compute, such as `cpu` or `cuda`.
        rand: Secret randomness of record-level privacy; None for the operating system's.

    Attributes:
        record_privacy: True: `train` honours `plan.local.record`. It then takes the gradient of
            each example by Opacus (extra `dp`), refuses layers that mix examples, reports no
            `train_loss`, and its updates are not repeatable: batches and noise are secret.
        local_defaults: The given ones of `lr`, `batch_size` and `epochs`. `train` itself reads
            `plan.local` alone.

    Raises:
        ConfigError: An argument is out of its range, or on first use, the model cannot be
            federated.

    >>> task = TorchTask(lambda: torch.nn.Linear(3, 2), torch.nn.functional.cross_entropy)
    >>> task.init(Key.root(7))
    Params(weight: float32[2, 3], bias: float32[2])
    >>> {name: role.value for name, role in task.roles.items()}
    {'weight': 'shared', 'bias': 'shared'}
    """

    record_privacy: Final = True

    def __init__(
        self,
        model: Model,
        loss: Loss,
        *,
        optimizer: Optimiser = "sgd",
        lr: float | None = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        momentum: float = 0.0,
        metrics: Mapping[str, Metric] | None = None,
        roles: Mapping[str, Role | str] | None = None,
        channels_last: bool = False,
        device: str = "cpu",
        rand: Rand | None = None,
    ) -> None:
        for name, value in (("model", model), ("loss", loss)):
            if not callable(value):
                raise ConfigError(f"{name} is {type(value).__name__}, expected a callable")
        settings: dict[str, Any] = {"lr": lr, "batch_size": batch_size, "epochs": epochs}
        given = {name: value for name, value in settings.items() if value is not None}
        checked = Local(**given)
        self.local_defaults: dict[str, object] = {name: getattr(checked, name) for name in given}
        self._model = model
        self._loss = loss
        self._stepper = stepper(optimizer, momentum)
        self._metrics = dict(metrics or {})
        self._roles = dict(roles or {})
        self._channels_last = channels_last
        self._device = torch.device(device)
        self._rand = rand

    @property
    def roles(self) -> dict[str, Role | str]:
        """Role of every tensor, by a pattern that matches its name alone."""
        return exact({t.name: t.role for t in self._replica.spec.tensors})

    def init(self, key: Key) -> Params:
        """Return the state of a module built after seeding PyTorch with the run's own seed.

        The seed is `key.seed`: the first weights are those of `torch.manual_seed(seed)` followed by
        `model()`.
        """
        return first_params(self._model, key.seed, self._device)

    def module(self, params: Params) -> torch.nn.Module:
        """Return the task's own module with a model in it, in evaluation mode.

        It is the one that the task trains: copy it to keep it.

        Raises:
            WrongShape: `params` does not fit the model.
        """
        self._replica.load(params)
        return self._replica.mode(training=False)

    def train(self, params: Params, data: Any, plan: Plan, key: Key) -> Update:
        """Train on `data` by the plan; report `train_loss`, the mean loss over the steps.

        Raises:
            DataError: The data cannot be used.
            WrongShape: `params`, or a vector of the objective, does not fit the model.
            PlanError: The plan asks for record-level privacy and a layer mixes examples.
        """
        replica = self._replica
        with seeded(key.seed64(), self._device):
            local = examples(data, replica)
            replica.load(params)
            metrics = {}
            if plan.local.record is not None:
                fit_privately(
                    replica, local, plan, loss=self._loss, stepper=self._stepper, rand=self._rand
                )
                replica.check_buffers(params)
            else:
                loss = fit(replica, local, plan, key=key, loss=self._loss, stepper=self._stepper)
                metrics["train_loss"] = loss
        return Update(replica.delta(params), float(len(local[0])), metrics, replica.kept())

    def check_record_privacy(self) -> None:
        """Refuse a model under which no record can be hidden, before anybody trains it.

        Raises:
            PlanError: It has a layer that mixes examples; the message names it.
        """
        check_mixing_layers(self._replica.module)

    def evaluate(self, params: Params, data: Any) -> dict[str, float]:
        """Return the mean of each metric over the examples of `data`, in evaluation mode."""
        replica = self._replica
        with seeded(0, self._device):
            local = examples(data, replica)
            replica.load(params)
            module = replica.mode(training=False)
            return measure(module, local, self._loss, metrics=self._metrics)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the module behind: another process builds its own, with memory of its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_replica"}

    @cached_property
    def _replica(self) -> Replica:
        return Replica(
            self._model, self._roles, device=self._device, channels_last=self._channels_last
        )
