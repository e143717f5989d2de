"""Linear models of scikit-learn as tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np

from choral.core.errors import ConfigError, MissingExtra, PlanError

try:
    from sklearn.base import clone
    from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "sklearn":
        raise
    raise MissingExtra(
        "SklearnTask needs scikit-learn, which is not installed",
        hint="pip install 'choral[sklearn]'",
    ) from None

from choral.core.checks import whole
from choral.core.keys import Key
from choral.core.params import Array, Params, Role, Spec
from choral.core.plan import Plan
from choral.core.task import spec_of
from choral.core.update import Update
from choral.tasks.arrays import labels, table
from choral.tasks.batches import batches
from choral.tasks.objective import Pull

SUPPORTED = (SGDClassifier, SGDRegressor, Perceptron)

NO_RECORD_PRIVACY = (
    "scikit-learn moves after every example inside `partial_fit`, where no gradient can be clipped"
)


class SklearnTask:
    """Local training of a scikit-learn estimator by `partial_fit`.

    Supported are `SGDClassifier`, `SGDRegressor` and `Perceptron`. The model is `coef_` and
    `intercept_` in scikit-learn's shapes, as float32, zero at the start. Penalty, loss and class
    weights are the estimator's own; its learning rate is constant and comes from the plan, and its
    `shuffle` is off, because the plan's batches are shuffled already.

    A step is one `partial_fit` over a batch, in which scikit-learn moves after every example.
    The pull of the round's objective, mu * (w - anchor) + drift, is taken at the point before the
    batch, and `lr` times it is subtracted after the batch: for batches of one example this is the
    gradient step on loss and pull together.

    Args:
        estimator: What to train. It is cloned and never changed.
        input_dim: Number of features, at least 1.
        classes: For a classifier the number of classes, labelled from 0, or the labels in ascending
            order, such as `[-1, 1]`.

    Attributes:
        local_defaults: `lr` where the estimator has a constant learning rate of its own; the
            federation's `local` overrides it.

    Raises:
        ConfigError: The estimator is not supported, or an argument is missing.

    >>> task = SklearnTask(SGDClassifier(loss="log_loss"), input_dim=64, classes=10)
    >>> task.init(Key.root(7))
    Params(coef_: float32[10, 64], intercept_: float32[10])
    """

    record_privacy: Final = False
    no_record_privacy: Final = NO_RECORD_PRIVACY

    def __init__(
        self,
        estimator: Any,
        *,
        input_dim: int | None = None,
        classes: int | Sequence[float] | None = None,
    ) -> None:
        self.name = type(estimator).__name__
        _check_estimator(estimator, self.name)
        if input_dim is None:
            raise ConfigError(
                f"{self.name} needs input_dim: it is built before any data is read",
                hint="give the number of feature columns, such as `input_dim=10`",
            )
        self._estimator = clone(estimator)
        self._classes = _labels_of(self.name, classes, classifies=self._classifies)
        self.input_dim = whole("input_dim", input_dim, least=1)
        self.local_defaults: dict[str, object] = {}
        if getattr(estimator, "learning_rate", "constant") == "constant" and estimator.eta0 > 0:
            self.local_defaults["lr"] = float(estimator.eta0)

    @property
    def roles(self) -> dict[str, Role | str]:
        """All tensors are shared; an intercept that is not fitted is frozen at zero."""
        return {} if self._estimator.fit_intercept else {"intercept_": Role.FROZEN}

    def init(self, key: Key) -> Params:
        """Return the zero model, which is where scikit-learn starts from too."""
        shapes = _read(self._opened(lr=1.0, key=key))
        arrays = {name: np.zeros(a.shape, np.float32) for name, a in shapes.items()}
        for array in arrays.values():
            array.flags.writeable = False
        return Params(arrays)

    def train(self, params: Params, data: Any, plan: Plan, key: Key) -> Update:
        """Take the plan's steps on `(X, y)`; report `train_loss`, taken before each step.

        Raises:
            DataError: X does not have `input_dim` features, or a label is not in `classes`.
            PlanError: The plan asks for record-level privacy.
        """
        if plan.local.record is not None:
            raise PlanError(
                f"SklearnTask does not train with record-level privacy: {NO_RECORD_PRIVACY}",
                hint="take `LinearTask`, which is the same model",
            )
        x, y = self._examples(data)
        self._spec.check(params)
        estimator = self._opened(lr=plan.local.lr, key=key)
        _write(estimator, params)
        shared = self._spec.names(Role.SHARED)
        pull = Pull.of(plan.objective, _flat(estimator, shared))
        total, seen = 0.0, 0
        for batch, target in batches((x, y), plan.local, key):
            total += float(self._losses(estimator, batch, target).sum())
            seen += len(batch)
            extra = np.zeros_like(before := _flat(estimator, shared))
            pull.add_to(extra, before)
            estimator.partial_fit(batch, target)
            _move(estimator, shared, -plan.local.lr * extra)
        return Update.between(
            self._spec,
            params,
            _read(estimator),
            weight=float(len(x)),
            metrics={"train_loss": total / seen},
        )

    def evaluate(self, params: Params, data: Any) -> dict[str, float]:
        """Return the mean `loss` over the examples, and `accuracy`, or `mae` of a regressor.

        The loss is the log loss or, for every other loss of a classifier, the hinge loss, summed
        over the one-against-rest problems; of a regressor it is the squared error.
        """
        x, y = self._examples(data)
        self._spec.check(params)
        estimator = self._opened(lr=1.0, key=Key.root(0))
        _write(estimator, params)
        predicted = estimator.predict(x)
        if self._classifies:
            metric = {"accuracy": float((predicted == y).mean())}
        else:
            metric = {"mae": float(np.abs(predicted - y).mean())}
        return {"loss": float(self._losses(estimator, x, y).mean()), **metric}

    @property
    def _classifies(self) -> bool:
        return not isinstance(self._estimator, SGDRegressor)

    @cached_property
    def _spec(self) -> Spec:
        return spec_of(self, self.init(Key.root(0)))

    def _examples(self, data: Any) -> tuple[Array, Array]:
        """Return X and y in float64, labels checked and in the dtype of `classes`."""
        x, y = table(data, self.input_dim)
        wide = x.astype(np.float64)
        if self._classes is None:
            return wide, y.astype(np.float64)
        return wide, self._classes[labels(y, self._classes)]

    def _opened(self, *, lr: float, key: Key) -> Any:
        """Return a clone with its arrays allocated, by a step on one example of zeros."""
        estimator = clone(self._estimator)
        settings: dict[str, Any] = {
            "eta0": lr,
            "shuffle": False,
            "random_state": key.seed64() % 2**32,
        }
        if "learning_rate" in estimator.get_params():
            settings["learning_rate"] = "constant"
        estimator.set_params(**settings)
        zeros = np.zeros((1, self.input_dim))
        if self._classes is None:
            estimator.partial_fit(zeros, np.zeros(1))
        else:
            estimator.partial_fit(zeros, self._classes[:1], classes=self._classes)
        return estimator

    def _losses(self, estimator: Any, x: Array, y: Array) -> Array:
        """Return the loss of every example, shape `[n]`."""
        if self._classes is None:
            errors: Array = estimator.predict(x) - y
            return errors * errors
        margins: Array = estimator.decision_function(x).reshape(len(x), -1)
        own = self._classes if margins.shape[1] > 1 else self._classes[1:]
        signed = np.where(own == y[:, None], margins, -margins)
        by_problem: Array = (
            np.logaddexp(0.0, -signed)
            if getattr(estimator, "loss", None) == "log_loss"
            else np.maximum(0.0, 1.0 - signed)
        )
        summed: Array = by_problem.sum(axis=1)
        return summed


def _check_estimator(estimator: Any, name: str) -> None:
    if isinstance(estimator, type):
        raise ConfigError(
            f"estimator is the class {estimator.__name__}, expected an instance",
            hint=f"write `{estimator.__name__}()`",
        )
    if not isinstance(estimator, SUPPORTED):
        raise ConfigError(
            f"estimator {name} is not supported",
            hint="supported: "
            + ", ".join(kind.__name__ for kind in SUPPORTED)
            + "; for a neural network use TorchTask",
        )
    settings = estimator.get_params()
    for setting in ("average", "early_stopping"):
        if settings.get(setting):
            raise ConfigError(
                f"{name} with {setting}={settings[setting]!r} cannot be trained in rounds",
                hint=f"leave out `{setting}`",
            )
    if settings.get("class_weight") == "balanced":
        raise ConfigError(
            f"{name} with class_weight='balanced' cannot be trained in rounds",
            hint="a batch does not know the balance; give weights by class",
        )


def _labels_of(
    name: str, classes: int | Sequence[float] | None, *, classifies: bool
) -> Array | None:
    """Return the labels of a classifier in ascending order, or None for a regressor."""
    if not classifies:
        if classes is not None:
            raise ConfigError(f"classes {classes} with {name}, which is a regressor")
        return None
    if classes is None:
        raise ConfigError(
            f"{name} needs classes: no client has to hold all of them",
            hint="give their number, or the labels, such as `classes=10`",
        )
    if np.ndim(classes) == 0:
        return np.arange(whole("classes", classes, least=2))
    found = np.asarray(classes)
    if found.ndim != 1 or len(found) < 2 or found.dtype.kind not in "iuf":
        raise ConfigError(f"classes {classes!r}: expected at least two numbers")
    if not (np.diff(found) > 0).all():
        raise ConfigError(f"classes {classes!r}: expected ascending order without repeats")
    return found


def _read(estimator: Any) -> dict[str, Array]:
    return {"coef_": estimator.coef_, "intercept_": estimator.intercept_}


def _write(estimator: Any, params: Params) -> None:
    for name in ("coef_", "intercept_"):
        setattr(estimator, name, np.array(params[name], np.float64, order="C"))


def _flat(estimator: Any, names: Sequence[str]) -> Array:
    return np.concatenate([getattr(estimator, name).reshape(-1) for name in names])


def _move(estimator: Any, names: Sequence[str], step: Array) -> None:
    """Add a flat step to the named arrays."""
    at = 0
    for name in names:
        array = getattr(estimator, name)
        setattr(estimator, name, array + step[at : at + array.size].reshape(array.shape))
        at += array.size
