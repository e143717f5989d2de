"""A strategy's state as named arrays, for durable storage, and back without losing a bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from choral.core.errors import StoreError, did_you_mean
from choral.core.params import Array
from choral.core.tensors import DTYPES

S = TypeVar("S")


def save(state: object) -> dict[str, Array]:
    """Return the fields of a state by name.

    An array stays as it is, an int becomes an int64 without dimensions, a float a float64 without
    dimensions, and None is left out.

    Args:
        state: A dataclass whose fields are arrays (with at least one dimension), ints, floats or
            None.

    Raises:
        StoreError: A field holds something else; the message names it.

    >>> from choral.strategies.fedavg import FedAvgState
    >>> save(FedAvgState(np.zeros(2, np.float32)))
    {'params': array([0., 0.], dtype=float32)}
    """
    values = {name: getattr(state, name) for name in _names(state)}
    return {name: _stored(name, v) for name, v in values.items() if v is not None}


def load(template: S, arrays: Mapping[str, Array]) -> S:
    """Return the state that `save` turned into `arrays`.

    Args:
        template: What the strategy's `init` returns for the same model. A field that it fills must
            be there, with the same kind, dtype and shape; one that it leaves None may be absent.
        arrays: Name to array, as `save` returned them. They are not copied.

    Raises:
        StoreError: The arrays do not fit the template; the message names the field.
    """
    names = _names(template)
    for name in arrays:
        if name not in names:
            raise StoreError(
                f"stored state has `{name}`, which {type(template).__name__} has not",
                hint=did_you_mean(name, names),
            )
    values = {name: _restored(name, getattr(template, name), arrays.get(name)) for name in names}
    return type(template)(**values)


def _names(state: object) -> list[str]:
    """Return the names of a state's fields."""
    if not dataclasses.is_dataclass(state) or isinstance(state, type):
        raise StoreError(f"state of type {type(state).__name__}, expected a dataclass")
    return [field.name for field in dataclasses.fields(state)]


def _stored(name: str, value: Any) -> Array:
    """Return one field as an array."""
    if isinstance(value, np.ndarray) and value.ndim and value.dtype.name in DTYPES:
        return value
    if type(value) is int and -(2**63) <= value < 2**63:
        return np.array(value, np.int64)
    if isinstance(value, float):
        return np.array(value, np.float64)
    shown = f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)
    raise StoreError(
        f"state field `{name}` is {shown}, expected an array with dimensions, a float, None, or an "
        "int of 64 bits"
    )


def _restored(name: str, old: Any, array: Array | None) -> Any:
    """Return one field from its array, which must be like the template's value `old`."""
    if array is None:
        if old is not None:
            raise StoreError(f"stored state lacks `{name}`, expected {_kind(_stored(name, old))}")
        return None
    if old is not None and _kind(array) != _kind(_stored(name, old)):
        raise StoreError(
            f"stored state has `{name}` as {_kind(array)}, expected {_kind(_stored(name, old))}"
        )
    if array.ndim:
        return array
    if array.dtype.name not in ("int64", "float64"):
        raise StoreError(f"stored state has `{name}` as {_kind(array)}, expected int64 or float64")
    return array.item()


def _kind(array: Array) -> str:
    """Return dtype and shape, such as `float32[3]`."""
    return f"{array.dtype.name}{list(array.shape)}"
