"""What one client contributes to a round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from choral.core.errors import NotFinite, UpdateRejected, WrongShape
from choral.core.params import Params, Spec, Vector


@dataclass(frozen=True, slots=True)
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
        old: Mapping[str, np.ndarray],
        new: Mapping[str, np.ndarray],
        *,
        weight: float,
        metrics: Mapping[str, float],
    ) -> Update:
        """Return the update that turns `old` into `new`, personal tensors kept apart.

        Differences are taken in float64, so that a float64 model or a counter loses nothing but
        the final rounding to float32.
        """
        delta = np.empty(spec.vector_size, np.float32)
        at = 0
        for t in spec.aggregated:
            a, b = np.asarray(new[t.name]), np.asarray(old[t.name])
            if a.dtype != np.float32 or b.dtype != np.float32:
                a, b = a.astype(np.float64), b.astype(np.float64)
            part = delta[at : at + t.size]
            part[...] = (a - b).reshape(-1)
            at += t.size
        personal = {t.name: new[t.name] for t in spec.tensors if t.role == "personal"}
        return Update(delta, weight, metrics, Params(personal) if personal else None)

    def merge(self, other: Update) -> Update:
        """Return the two updates as one, weighted by their weights.

        >>> a = Update(np.array([1.0], np.float32), 1.0)
        >>> b = Update(np.array([4.0], np.float32), 2.0)
        >>> float(a.merge(b).delta[0]), a.merge(b).weight
        (3.0, 3.0)
        """
        total = self.weight + other.weight
        share = other.weight / total if total else 0.0
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
        if not (isinstance(self.weight, int | float) and math.isfinite(self.weight)):
            raise NotFinite(f"weight {self.weight!r}, expected a finite number")
        if self.weight < 0:
            raise UpdateRejected(f"weight {self.weight}, expected at least 0")
        for name, value in self.metrics.items():
            if not math.isfinite(value):
                raise NotFinite(f"metric `{name}` is {value}, expected a finite number")
