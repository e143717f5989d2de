"""Linear and logistic regression in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from choral.core.checks import one_of, real, whole
from choral.core.errors import ConfigError
from choral.core.keys import Key
from choral.core.params import Array, Params, Spec, Vector
from choral.core.plan import Plan
from choral.core.ports import Rand
from choral.core.update import Update
from choral.tasks.arrays import labels, table
from choral.tasks.batches import batches
from choral.tasks.objective import Pull
from choral.tasks.private import private_steps

Loss: TypeAlias = Callable[[Vector, Array], tuple[Vector, Vector]]
"""From outputs `[n, k]` and targets `[n]` to losses `[n]` and their derivatives `[n, k]`."""


class LinearTask:
    """Linear or logistic regression, trained by mini-batch gradient descent in float32.

    The model is `weight`, shape `[outputs, input_dim]`, and `bias`, shape `[outputs]`, both zero at
    the start: the losses are convex, so no random start is needed and every seed gives the same.

    * `linear`: one output; the loss is the squared error (y' - y)^2, without a factor 1/2.
    * `logistic` with two classes: one output, the log-odds of class 1; the loss is the negative
      log-likelihood.
    * `logistic` with more: one output a class; the loss is the cross-entropy of their softmax.

    Labels are whole numbers from 0. Each step takes the mean gradient of its batch, adds
    `l2 * weight` and the pull of the round's objective, and moves by `-lr` times that.

    With record-level privacy in the plan, a step takes the private gradient of the loss instead;
    the penalty and the pull, which depend on no record, are added as they are, and no
    `train_loss` is reported.

    Args:
        kind: `linear` or `logistic`.
        input_dim: Number of features, at least 1.
        classes: Number of classes of a logistic model, at least 2; 2 where it is left out.
        l2: Factor of the penalty l2 / 2 * |weight|^2, at least 0. The bias is not penalised, and
            reported losses leave the penalty out.
        rand: Secret randomness of record-level privacy; None for the operating system's.

    Attributes:
        record_privacy: True: `train` honours `plan.local.record`.

    Raises:
        ConfigError: An argument is missing or out of its range.

    >>> task = LinearTask("logistic", input_dim=3, classes=4)
    >>> task.init(Key.root(7))
    Params(weight: float32[4, 3], bias: float32[4])
    """

    record_privacy: Final = True

    def __init__(
        self,
        kind: Literal["linear", "logistic"] = "linear",
        *,
        input_dim: int | None = None,
        classes: int | None = None,
        l2: float = 0.0,
        rand: Rand | None = None,
    ) -> None:
        one_of("kind", kind, ("linear", "logistic"))
        if input_dim is None:
            raise ConfigError(
                f"a {kind} model needs input_dim: it is built before any data is read",
                hint="give the number of feature columns, such as `input_dim: 10`",
            )
        if kind == "linear" and classes is not None:
            raise ConfigError(
                f"classes {classes} with a linear model", hint="use kind `logistic` to classify"
            )
        several = whole("classes", 2 if classes is None else classes, least=2)
        self.kind: Final = kind
        self.input_dim: Final = whole("input_dim", input_dim, least=1)
        self.classes: Final = 0 if kind == "linear" else several
        self.l2: Final = real("l2", l2, least=0)
        self._rand = rand

    def init(self, key: Key) -> Params:
        """Return the zero model."""
        arrays: dict[str, Array] = {
            "weight": np.zeros((self._outputs, self.input_dim), np.float32),
            "bias": np.zeros(self._outputs, np.float32),
        }
        for array in arrays.values():
            array.flags.writeable = False
        return Params(arrays)

    def train(self, params: Params, data: Any, plan: Plan, key: Key) -> Update:
        """Take the plan's gradient steps on `(X, y)`.

        Returns:
            The update, weighted by the number of examples, with `train_loss`: the mean loss over
            the steps, each taken before its step.

        Raises:
            DataError: X does not have `input_dim` features, or a label is out of range.
        """
        x, y = self._examples(data)
        self._spec.check(params)
        received = self._spec.flatten(params)
        w, gradient = received.copy(), np.empty_like(received)
        cut = self._outputs * self.input_dim
        weight, bias = w[:cut].reshape(self._outputs, self.input_dim), w[cut:]
        pull = Pull.of(plan.objective, received)
        if plan.local.record is not None:
            self._train_privately(w, x, y, plan=plan, pull=pull)
            return Update(w - received, float(len(x)), {})
        total, seen = 0.0, 0
        for batch, target in batches((x, y), plan.local, key):
            losses, slope = self._loss(batch @ weight.T + bias, target)
            slope /= np.float32(len(batch))
            np.matmul(slope.T, batch, out=gradient[:cut].reshape(weight.shape))
            np.sum(slope, axis=0, out=gradient[cut:])
            if self.l2:
                gradient[:cut] += self.l2 * w[:cut]
            pull.add_to(gradient, w)
            w -= plan.local.lr * gradient
            total += float(losses.sum(dtype=np.float64))
            seen += len(batch)
        return Update(w - received, float(len(x)), {"train_loss": total / seen})

    def _train_privately(self, w: Vector, x: Vector, y: Array, *, plan: Plan, pull: Pull) -> None:
        """Take private steps from `w`, in place."""
        cut = self._outputs * self.input_dim
        weight, bias = w[:cut].reshape(self._outputs, self.input_dim), w[cut:]
        for step in private_steps(plan.local, count=len(x), dimension=w.size, rand=self._rand):
            blocks = (
                per_example_gradients(self._loss, weight, bias, x=x[rows], y=y[rows])
                for rows in _pieces(step.rows, w.size)
            )
            gradient = step.gradient(blocks)
            if self.l2:
                gradient[:cut] += self.l2 * w[:cut]
            pull.add_to(gradient, w)
            w -= plan.local.lr * gradient

    def evaluate(self, params: Params, data: Any) -> dict[str, float]:
        """Return the mean `loss` over the examples, and `accuracy` (logistic) or `mae` (linear).

        The `loss` of a linear model is the mean squared error.
        """
        x, y = self._examples(data)
        self._spec.check(params)
        outputs = x @ params["weight"].T + params["bias"]
        if self.classes == 0:
            metric = {"mae": float(np.abs(outputs[:, 0] - y).mean(dtype=np.float64))}
        else:
            chosen = outputs[:, 0] > 0 if self.classes == 2 else outputs.argmax(axis=1)
            metric = {"accuracy": float((chosen == y).mean())}
        losses, _ = self._loss(outputs, y)
        return {"loss": float(losses.mean(dtype=np.float64)), **metric}

    @property
    def _outputs(self) -> int:
        return self.classes if self.classes > 2 else 1

    @property
    def _loss(self) -> Loss:
        if self.classes == 0:
            return squared_error
        return log_odds if self.classes == 2 else cross_entropy

    @cached_property
    def _spec(self) -> Spec:
        return Spec.of(self.init(Key.root(0)))

    def _examples(self, data: Any) -> tuple[Vector, Array]:
        x, y = table(data, self.input_dim)
        if self.classes == 0:
            return x, y.astype(np.float32, copy=False)
        return x, labels(y, range(self.classes))


def per_example_gradients(
    loss: Loss, weight: Vector, bias: Vector, *, x: Vector, y: Array
) -> Vector:
    """Return the gradient of each example's own loss.

    Guarantees: a row depends on its own example alone, to the last bit: outputs are summed row by
    row, since a matrix product may take another path for another number of rows.

    Args:
        loss: Losses and slopes of a batch.
        weight: Shape `[k, d]`.
        bias: Shape `[k]`.
        x: Features, shape `[n, d]`.
        y: Targets, shape `[n]`.

    Returns:
        float32, shape `[n, k * d + k]`: weight, then bias.
    """
    outputs = np.stack([(x * row).sum(axis=1) for row in weight], axis=1) + bias
    _, slope = loss(outputs, y)
    gradients = np.empty((len(x), weight.size + bias.size), np.float32)
    shaped = gradients[:, : weight.size].reshape(len(x), *weight.shape)
    np.multiply(slope[:, :, None], x[:, None, :], out=shaped)
    gradients[:, weight.size :] = slope
    return gradients


def _pieces(rows: Array, dimension: int) -> Iterator[Array]:
    """Yield indices in pieces whose gradients fit into 16 MiB, or one by one."""
    size = max(1, (1 << 22) // dimension)
    for at in range(0, len(rows), size):
        yield rows[at : at + size]


def squared_error(outputs: Vector, targets: Array) -> tuple[Vector, Vector]:
    """Return (y' - y)^2 and 2 (y' - y)."""
    error = outputs[:, 0] - targets
    return error * error, 2 * error[:, None]


def log_odds(outputs: Vector, targets: Array) -> tuple[Vector, Vector]:
    """Return log(1 + exp(z)) - y z and sigmoid(z) - y, without overflow for any z."""
    z, y = outputs[:, 0], targets.astype(np.float32)
    chance = 0.5 * (1 + np.tanh(0.5 * z))
    return np.logaddexp(np.float32(0), z) - y * z, (chance - y)[:, None]


def cross_entropy(outputs: Vector, targets: Array) -> tuple[Vector, Vector]:
    """Return -log p_y and p - e_y for p = softmax(z), without overflow for any z."""
    z = outputs - outputs.max(axis=1, keepdims=True)
    chances = np.exp(z)
    sums = chances.sum(axis=1, keepdims=True)
    rows = np.arange(len(z))
    losses = np.log(sums[:, 0]) - z[rows, targets]
    chances /= sums
    chances[rows, targets] -= 1
    return losses, chances
