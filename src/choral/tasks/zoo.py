"""Built-in models, by the names that a federation file writes under `model:`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from choral.core.checks import whole
from choral.core.errors import ConfigError
from choral.core.registry import build_named
from choral.core.task import Task
from choral.tasks.numpy import LinearTask


def linear(*, input_dim: int, l2: float = 0.0) -> Task:
    """Return linear regression: `LinearTask("linear")`."""
    return LinearTask("linear", input_dim=_features(input_dim), l2=l2)


def logistic(*, input_dim: int, classes: int = 2, l2: float = 0.0) -> Task:
    """Return logistic regression: `LinearTask("logistic")`."""
    return LinearTask("logistic", input_dim=_features(input_dim), classes=_classes(classes), l2=l2)


def mlp(*, input_dim: int, classes: int, hidden: Sequence[int] = (200, 200)) -> Task:
    """Return a fully connected classifier in PyTorch with ReLU and cross-entropy."""
    return _classifier(
        "mlp",
        input_dim=_features(input_dim),
        hidden=_sizes("hidden", hidden),
        classes=_classes(classes),
    )


def cnn(*, classes: int, input_shape: Sequence[int] = (1, 28, 28)) -> Task:
    """Return LEAF's convolutional classifier in PyTorch with cross-entropy.

    `input_shape` is channels, height and width; height and width are at least 4.
    """
    shape = _sizes("input_shape", input_shape)
    if len(shape) != 3 or min(shape[1:]) < 4:
        raise ConfigError(
            f"model.input_shape {list(shape)}: expected [channels, height, width] of at least 4 x 4"
        )
    return _classifier("cnn", input_shape=shape, classes=_classes(classes))


MODELS: Mapping[str, Callable[..., Task]] = MappingProxyType(
    {"linear": linear, "logistic": logistic, "mlp": mlp, "cnn": cnn}
)
"""Name in the federation file to what builds the task."""


def _mlp_elements(*, input_dim: int, classes: int, hidden: Sequence[int] = (200, 200)) -> int:
    widths = (input_dim, *hidden, classes)
    return sum((before + 1) * after for before, after in pairwise(widths))


def _cnn_elements(*, classes: int, input_shape: Sequence[int] = (1, 28, 28)) -> int:
    channels, height, width = input_shape
    flat = 64 * (height // 4) * (width // 4)
    kernels = (25 * channels + 1) * 32 + (25 * 32 + 1) * 64
    return kernels + (flat + 1) * 512 + 513 * classes


_ELEMENTS: Mapping[str, Callable[..., int]] = MappingProxyType(
    {
        "linear": lambda *, input_dim, l2=0.0: input_dim + 1,
        "logistic": lambda *, input_dim, classes=2, l2=0.0: (input_dim + 1) * classes,
        "mlp": _mlp_elements,
        "cnn": _cnn_elements,
    }
)


def elements(type: str, **arguments: Any) -> int:
    """Return the most elements that a built-in model's tensors have together, without making them.

    Args:
        type: As for `build`, which has taken these arguments before.
        arguments: The other keys under `model:`.

    >>> elements("linear", input_dim=10), elements("mlp", input_dim=2, classes=3, hidden=[4])
    (11, 27)
    """
    return _ELEMENTS[type](**arguments)


def build(type: str, **arguments: Any) -> Task:
    """Return the task of a built-in model.

    Args:
        type: `linear`, `logistic`, `mlp` or `cnn`.
        arguments: The other keys under `model:`.

    Raises:
        UnknownName: No model has this name.
        UnknownKey: The model has no such key.
        ConfigError: A key is missing or its value cannot be used.
        MissingExtra: The model needs PyTorch, which is not installed.

    >>> from choral.core.keys import Key
    >>> build("linear", input_dim=10).init(Key.root(1))
    Params(weight: float32[1, 10], bias: float32[1])
    """
    return build_named(MODELS, type, arguments, what="model")


def _classifier(net: str, **arguments: Any) -> Task:
    """Return a network of `nets` as a task; PyTorch is imported here and not before."""
    adapter = import_module("choral.tasks.torch")  # raises MissingExtra, so it comes first
    nets = import_module("choral.tasks.nets")
    task: Task = adapter.TorchTask(
        model=partial(getattr(nets, net), **arguments), loss=nets.cross_entropy
    )
    return task


def _features(value: Any) -> int:
    return whole("model.input_dim", value, least=1)


def _classes(value: Any) -> int:
    return whole("model.classes", value, least=2)


def _sizes(name: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, list | tuple):
        raise ConfigError(f"model.{name} {values!r}: expected a list of whole numbers")
    return tuple(whole(f"model.{name}", value, least=1) for value in values)
