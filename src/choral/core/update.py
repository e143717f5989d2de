"""What one client contributes to a round."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from choral.core.errors import NotFinite, UpdateRejected, WrongShape
from choral.core.params import Array, Params, Spec, TensorSpec, Vector


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """A client's change to the model, before it is encoded.

    A monoid under `merge` with weight zero as its identity. Merging floats is for reasoning and for
    transforms; sums that must not depend on their order are taken on integers (`core.exact`).

    Attributes:
        delta: New minus received value, float32, shape `[spec.vector_size]`.
        weight: Weight of this update in the mean, finite and at least 0; a task sets it to its
            number of training examples.
        metrics: Finite scalars by name, averaged with the same weight, such as `train_loss`.
        kept: The client's trained personal tensors. They stay on the client: its runtime takes them
            off before anything is encoded.
    """

    delta: Vector
    weight: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    kept: Params | None = None

    @staticmethod
    def between(
        spec: Spec,
        old: Mapping[str, Array],
        new: Mapping[str, Array],
        *,
        weight: float,
        metrics: Mapping[str, float],
    ) -> Update:
        """Return the update that turns `old` into `new`, personal tensors kept apart.

        Differences of float64 models are taken in float64, so that they lose nothing but the final
        rounding to float32.

        Raises:
            WrongShape: A tensor is missing, is no array of numbers, or has another shape.
        """
        delta = np.empty(spec.vector_size, np.float32)
        at = 0
        for t in spec.aggregated:
            a, b = _tensor(new, t), _tensor(old, t)
            if a.dtype != np.float32 or b.dtype != np.float32:
                a, b = a.astype(np.float64), b.astype(np.float64)
            part = delta[at : at + t.size]
            part[...] = (a - b).reshape(-1)
            at += t.size
        personal = {
            t.name: _tensor(new, t).astype(t.dtype, copy=False)
            for t in spec.tensors
            if t.role == "personal"
        }
        return Update(delta, weight, metrics, Params(personal) if personal else None)

    def merge(self, other: Update) -> Update:
        """Return the two updates as one, weighted by their weights.

        >>> a = Update(np.array([1.0], np.float32), 1.0)
        >>> b = Update(np.array([4.0], np.float32), 2.0)
        >>> float(a.merge(b).delta[0]), a.merge(b).weight
        (3.0, 3.0)
        """
        if not other.weight:
            return self
        if not self.weight:
            return other
        total = float(self.weight) + float(other.weight)
        share = float(other.weight) / total
        delta = self.delta + np.float32(share) * (other.delta - self.delta)
        names = self.metrics.keys() & other.metrics.keys()
        metrics = {
            n: self.metrics[n] + share * (other.metrics[n] - self.metrics[n]) for n in sorted(names)
        }
        return Update(delta, total, metrics)

    def check(self, spec: Spec) -> None:
        """Raise `UpdateRejected` unless this update fits `spec` and all its numbers are finite."""
        if not isinstance(self.delta, np.ndarray) or self.delta.dtype != np.float32:
            got = getattr(self.delta, "dtype", type(self.delta).__name__)
            raise WrongShape(f"delta of type {got}, expected a float32 array")
        if self.delta.shape != (spec.vector_size,):
            raise WrongShape(
                f"delta of shape {list(self.delta.shape)}, expected [{spec.vector_size}]"
            )
        if not _finite(self.weight):
            raise NotFinite(f"weight {self.weight!r}, expected a finite number")
        if self.weight < 0:
            raise UpdateRejected(f"weight {self.weight}, expected at least 0")
        for name, value in self.metrics.items():
            if not isinstance(name, str) or not name.isprintable():
                raise UpdateRejected(f"metric name {name!r}, expected a word")
            if not _finite(value):
                raise NotFinite(f"metric `{name}` is {value!r}, expected a finite number")


def _tensor(arrays: Mapping[str, Any], t: TensorSpec) -> Array:
    """Return one tensor of a model, checked against its spec."""
    array = arrays.get(t.name)
    if isinstance(array, np.generic):
        array = np.asarray(array)
    if array is None:
        raise WrongShape(f"the trained model has no tensor `{t.name}`")
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        got = getattr(array, "dtype", type(array).__name__)
        raise WrongShape(f"tensor `{t.name}` is {got}, expected an array of {t.dtype}")
    if array.shape != t.shape:
        raise WrongShape(
            f"tensor `{t.name}` has shape {list(array.shape)}, expected {list(t.shape)}"
        )
    return array


def _finite(value: object) -> bool:
    """Return whether `value` is a real number that a float can hold."""
    if type(value) is float:
        return math.isfinite(value)
    try:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:
        return False
