"""Clips: the bound that noise is measured by, applied last before the sum.

A clip acts on weight times delta, since that is what enters the sum: clipped first and weighted
afterwards, a heavy client would move the sum by its weight times the bound. What leaves a clip has
weight 1, so that the coordinator's mean divides by the number of clients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt

from choral.core.checks import one_of, real
from choral.core.errors import NotFinite, PlanError
from choral.core.exact import Total, tensor_at
from choral.core.keys import Key
from choral.core.params import Role, Spec, Vector
from choral.core.plan import Plan
from choral.core.transform import Declared
from choral.core.update import Update

UNCLIPPED: Final = "unclipped"
"""Metric of whether a clip left an update as it was."""


def clip_factor(norm: float, bound: float) -> float:
    """Return what to multiply a vector of this norm with: at most 1; 1 for a zero vector.

    >>> clip_factor(4.0, 1.0), clip_factor(0.0, 1.0)
    (0.25, 1.0)
    """
    return bound / norm if norm > bound else 1.0


def norm_of(x: npt.NDArray[np.floating[Any]]) -> float:
    """Return the L2 norm, summed in float64; it may be too small by `norm_error`."""
    return math.sqrt(float(np.einsum("i,i->", x, x, dtype=np.float64)))


def norm_error(size: int) -> float:
    """Return how far, relatively, a norm of so many coordinates in float64 may be too small.

    A sum of n squares in any order is short by at most n units of 2^-53 of itself, and its root by
    half of that; the other half is for the squares, the root and what they are multiplied by.

    >>> norm_error(10**6) < 2e-10
    True
    """
    return (size + 8) * 2.0**-53


def clip_l2(x: npt.NDArray[np.floating[Any]], bound: float) -> npt.NDArray[np.floating[Any]]:
    """Return a vector scaled down to an L2 norm of at most `bound`.

    Guarantees: the norm of the result, in exact arithmetic, is at most `bound`: the factor has room
    for the rounding of a product and of the sum of squares.

    Args:
        x: float32 or float64, shape `[n]`, all finite.
        bound: Above 0.

    Returns:
        `x` itself where nothing is to be done, else a new vector of its dtype.

    >>> clip_l2(np.array([3.0, 4.0]), 10.0).tolist()
    [3.0, 4.0]
    """
    norm = norm_of(x)
    spare = 1.0 - 4.0 * float(np.finfo(x.dtype).eps) - norm_error(x.size)
    if norm <= bound * spare:
        return x
    scaled: npt.NDArray[np.floating[Any]] = x * x.dtype.type(clip_factor(norm, bound) * spare)
    return scaled


def clip_layers(x: Vector, spec: Spec, bounds: tuple[float, ...]) -> Vector:
    """Return a vector with each aggregated tensor clipped to a bound of its own.

    The whole then has a norm of at most `layers_norm(bounds)`.

    Args:
        x: float32, shape `[spec.vector_size]`, all finite.
        spec: The schema.
        bounds: One for each aggregated tensor, in the order of `spec.aggregated`.

    Raises:
        PlanError: There are more or fewer bounds than tensors.
    """
    tensors = tuple(spec.aggregated)
    if len(bounds) != len(tensors):
        raise PlanError(f"{len(bounds)} bounds for the clip of {len(tensors)} tensors")
    out = x.copy()
    at = 0
    for tensor, bound in zip(tensors, bounds, strict=True):
        part = slice(at, at + tensor.size)
        out[part] = clip_l2(out[part], bound)
        at += tensor.size
    return out


def layers_norm(bounds: tuple[float, ...]) -> float:
    """Return the L2 norm that clips of these bounds, one for each tensor, give the whole.

    >>> layers_norm((3.0, 4.0))
    5.0
    """
    return math.hypot(*bounds)


def private_weight(examples: float, cap: float | None) -> float:
    """Return the weight of a client where privacy is promised: 1, or min(n, cap) / cap.

    >>> private_weight(50, None), private_weight(50, 100), private_weight(500, 100)
    (1.0, 0.5, 1.0)
    """
    return 1.0 if cap is None else min(float(examples), cap) / cap


@dataclass(frozen=True, slots=True)
class Clip:
    """The transform that bounds an update, after its weight.

    Guarantees: what leaves has weight 1, no metrics (they would be a release of their own, without
    noise), and a delta of an L2 norm of at most `bound`, for any update that goes in; a zero update
    passes as it is.

    Args:
        bound: C, finite and above 0.
        weight_cap: Examples that count as weight 1; None gives every client weight 1. Weights are
            multiplied into the delta, so that the sum divides by the number of clients.
        layers: Bounds for each aggregated tensor instead; their root of squares must be `bound`.
        report: Say by the metric `unclipped`, 1 or 0, whether the clip left the delta as it was,
            for `adaptive`; the coordinator must see it with noise alone, or be trusted.
        not_finite: `zero` makes an update with NaN or infinity zero, `reject` refuses it. Either
            way its client took part, and the ledger counts it.

    Raises:
        ConfigError: One of them is out of range.
        PlanError: The bounds of the layers do not make up `bound`.
    """

    name: ClassVar[str] = "clip"

    bound: float
    weight_cap: float | None = None
    layers: tuple[float, ...] | None = None
    report: bool = False
    not_finite: Literal["zero", "reject"] = "reject"

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", real("clip.bound", self.bound, above=0))
        if self.weight_cap is not None:
            real("clip.weight_cap", self.weight_cap, above=0)
        one_of("clip.not_finite", self.not_finite, ("zero", "reject"))
        if self.layers is not None:
            for bound in self.layers:
                real("clip.layers", bound, above=0)
            if layers_norm(self.layers) > self.bound * (1 + 1e-9):
                raise PlanError(
                    f"the layers' bounds make up {layers_norm(self.layers):g}, above the clip's "
                    f"{self.bound:g}"
                )

    @property
    def declared(self) -> Declared:
        """That it bounds updates."""
        return Declared(bounds=self.bound)

    def encode(self, update: Update, spec: Spec, plan: Plan, key: Key) -> Update:
        """Return the update with its weight multiplied in, clipped, at weight 1.

        Raises:
            NotFinite: It holds NaN or infinity, and such updates are refused.
        """
        delta = update.delta
        if not (math.isfinite(norm_of(delta)) and math.isfinite(update.weight)):
            if self.not_finite == "reject":
                raise NotFinite(f"{tensor_at(spec, ~np.isfinite(delta))} holds NaN or infinity")
            delta = np.zeros_like(delta)
        claimed = update.weight if math.isfinite(update.weight) else 0.0
        weight = private_weight(claimed, self.weight_cap)
        if weight != 1.0:
            delta = delta * np.float32(weight)
        if self.layers is not None:
            clipped = clip_layers(delta, spec, self.layers)
        else:
            clipped = clip_l2(delta, self.bound).astype(np.float32, copy=False)
        metrics = {UNCLIPPED: float(norm_of(delta) <= self.bound)} if self.report else {}
        return Update(clipped, 1.0, metrics, update.kept)

    def decode(self, total: Total, spec: Spec, plan: Plan) -> Total:
        """Return the sum as it is: a clip cannot be undone."""
        return total


def check_private_tensors(spec: Spec) -> None:
    """Refuse a model with tensors that would be averaged without any meaning under noise.

    Raises:
        PlanError: It has floating buffers, such as BatchNorm statistics; others never travel.
    """
    for tensor in spec.aggregated:
        if tensor.role is Role.BUFFER:
            raise PlanError(
                f"tensor `{tensor.name}` is a buffer: buffers are not averaged with noise",
                hint="give it the role `personal` or `frozen`, or use GroupNorm instead of "
                "BatchNorm",
            )
