"""Named arrays and their schema.

A `Spec` says for every tensor of a model its name, shape, dtype and role; FedBN, FedPer, FedRep and
LoRA are choices of roles. `Params` are the arrays. The flat vector that clients send covers the
shared tensors first, then the floating buffers, each in the order of the spec.
"""

from __future__ import annotations

import enum
import fnmatch
import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NewType, TypeAlias

import numpy as np
import numpy.typing as npt

from choral.core.canonical import digest_of
from choral.core.errors import ConfigError, WrongShape, did_you_mean
from choral.core.tensors import DTYPES, check_name, encode_tensors

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float32]
"""A flat float32 array over the aggregated tensors of a spec."""

ClientId = NewType("ClientId", str)


class Role(enum.StrEnum):
    """What happens to a tensor."""

    SHARED = "shared"
    """Trained at the clients, aggregated, moved by the strategy."""
    BUFFER = "buffer"
    """BatchNorm statistics: averaged by weight, never moved by an optimiser. A buffer of integers,
    such as a counter, is not averaged: every round starts from its first value."""
    PERSONAL = "personal"
    """Trained at the client and never leaves it."""
    FROZEN = "frozen"
    """Never trained, never sent back."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape, dtype and role of one tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def floating(self) -> bool:
        """Whether its elements are floating-point numbers."""
        return np.issubdtype(np.dtype(self.dtype), np.floating)


def matching(pattern: str, names: Collection[str]) -> list[str]:
    """Return the names that a pattern means: the name itself, else all that it matches as a glob.

    >>> matching("head.*", ["body.w", "head.w", "head.b"])
    ['head.w', 'head.b']
    """
    if pattern in names:
        return [pattern]
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


class Params(Mapping[str, Array]):
    """An ordered, read-only mapping of names to arrays.

    The arrays are marked read-only where Choral made them; treat all of them so.
    """

    __slots__ = ("__dict__", "_arrays")

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        for name, array in arrays.items():
            check_name(name)
            if array.dtype.name not in DTYPES:
                raise ConfigError(
                    f"tensor `{name}` has dtype {array.dtype}",
                    hint="allowed: " + ", ".join(DTYPES),
                )
        self._arrays = dict(arrays)

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        inner = ", ".join(f"{n}: {a.dtype}{list(a.shape)}" for n, a in self._arrays.items())
        return f"Params({inner})"

    def __eq__(self, other: object) -> bool:
        """Return whether names, shapes, types and bits are the same, in the same order."""
        return isinstance(other, Params) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(a.nbytes for a in self._arrays.values())

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the safetensors file of these arrays, in hexadecimal."""
        state = hashlib.sha256()
        for block in encode_tensors(self._arrays):
            state.update(block)
        return state.hexdigest()


@dataclass(frozen=True)
class Spec:
    """The schema of a model.

    Attributes:
        tensors: One entry per tensor, in the model's order; names are unique.
    """

    tensors: tuple[TensorSpec, ...]

    @staticmethod
    def of(params: Mapping[str, Array], roles: Mapping[str, Role | str] | None = None) -> Spec:
        """Return the spec of `params`.

        Args:
            params: The model's arrays.
            roles: Name or glob pattern to role; a later entry wins. By default a floating tensor
                is shared and any other is a buffer.

        Raises:
            ConfigError: A pattern that matches no tensor, an unknown role, or a shared tensor
                that is not floating.

        >>> spec = Spec.of({"w": np.zeros((2, 3), np.float32), "n": np.array(0)})
        >>> [(t.name, t.role.value) for t in spec.tensors]
        [('w', 'shared'), ('n', 'buffer')]
        """
        chosen = {
            name: Role.SHARED if np.issubdtype(a.dtype, np.floating) else Role.BUFFER
            for name, a in params.items()
        }
        for pattern, role in (roles or {}).items():
            names = matching(pattern, params)
            if not names:
                raise ConfigError(
                    f"role pattern `{pattern}` matches no tensor",
                    hint=did_you_mean(pattern, params),
                )
            if not isinstance(role, str) or role not in set(Role):
                raise ConfigError(
                    f"unknown role `{role}`", hint=did_you_mean(str(role), list(Role))
                )
            chosen.update(dict.fromkeys(names, Role(role)))
        for name, role in chosen.items():
            if role is Role.SHARED and not np.issubdtype(params[name].dtype, np.floating):
                raise ConfigError(
                    f"tensor `{name}` of dtype {params[name].dtype} cannot be shared",
                    hint="give it the role buffer, personal or frozen",
                )
        return Spec(
            tuple(TensorSpec(n, a.shape, a.dtype.name, chosen[n]) for n, a in params.items())
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, shapes, dtypes and roles, in hexadecimal."""
        return digest_of([[t.name, list(t.shape), t.dtype, t.role.value] for t in self.tensors])

    def names(self, *roles: Role) -> tuple[str, ...]:
        """Return the names of the tensors that have one of `roles`."""
        return tuple(t.name for t in self.tensors if t.role in roles)

    @cached_property
    def aggregated(self) -> tuple[TensorSpec, ...]:
        """The tensors of the flat vector: shared, then floating buffers."""
        return tuple(
            t
            for role in (Role.SHARED, Role.BUFFER)
            for t in self.tensors
            if t.role is role and t.floating
        )

    @cached_property
    def shared_size(self) -> int:
        """Elements of the shared tensors: the part of the vector that a strategy moves."""
        return sum(t.size for t in self.aggregated if t.role is Role.SHARED)

    @cached_property
    def vector_size(self) -> int:
        """Elements of the flat vector."""
        return sum(t.size for t in self.aggregated)

    def check(self, params: Mapping[str, Array]) -> None:
        """Raise `WrongShape` unless `params` has exactly these names, shapes and dtypes."""
        names = [t.name for t in self.tensors]
        if list(params) != names:
            raise WrongShape(f"tensors {list(params)} do not match the model's {names}")
        for t in self.tensors:
            a = params[t.name]
            if a.shape != t.shape or a.dtype.name != t.dtype:
                raise WrongShape(
                    f"tensor `{t.name}` is {a.dtype}{list(a.shape)}, "
                    f"expected {t.dtype}{list(t.shape)}"
                )

    def flatten(self, params: Mapping[str, Array], out: Vector | None = None) -> Vector:
        """Return the aggregated tensors as one float32 vector of `vector_size` elements.

        Args:
            params: Has the tensors of this spec, perhaps others.
            out: Where to write, float32 of shape `[vector_size]`; default a new vector.

        Raises:
            WrongShape: A tensor has another shape.
        """
        vector = np.empty(self.vector_size, np.float32) if out is None else out
        at = 0
        for t in self.aggregated:
            array = params[t.name]
            if array.shape != t.shape:
                raise WrongShape(
                    f"tensor `{t.name}` has shape {list(array.shape)}, expected {list(t.shape)}"
                )
            vector[at : at + t.size] = array.reshape(-1)
            at += t.size
        return vector

    def unflatten(
        self, vector: Vector, rest: Mapping[str, Array], *, buffers: Vector | None = None
    ) -> Params:
        """Return the model whose aggregated tensors come from `vector` and the others from `rest`.

        All arrays that come from the vector are read-only; those of dtype float32 are views of it.

        Args:
            vector: float32, of `vector_size` elements; of `shared_size` where `buffers` is given.
            rest: Has the other tensors.
            buffers: float32, the buffers of the vector, where they lie elsewhere.

        Raises:
            WrongShape: The vector has another length.
        """
        found: dict[str, Array] = {}
        parts = (vector,) if buffers is None else (vector, buffers)
        size = sum(part.size for part in parts)
        cut = self.vector_size if buffers is None else self.shared_size
        if size != self.vector_size or parts[0].shape != (cut,):
            raise WrongShape(f"vector of shape {list(vector.shape)}, expected [{cut}]")
        at = 0
        for t in self.aggregated:
            source, start = (vector, at) if at < cut or buffers is None else (buffers, at - cut)
            part = source[start : start + t.size].reshape(t.shape)
            found[t.name] = part.astype(t.dtype, copy=False)
            found[t.name].flags.writeable = False
            at += t.size
        return Params(
            {t.name: found[t.name] if t.name in found else rest[t.name] for t in self.tensors}
        )
