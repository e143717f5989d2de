"""An update as elements of the ring of a secure sum, and what a sum of them says.

The vector is w x, coordinate by coordinate as in `choral.crypto.fixed_point`, with w the weight
over its unit; after it come w itself and for each declared metric w v / R and w, where R is the
metric's bound and the second says how much weight measured it. Weights and metrics are counted in
units of 2^(2 - b) and rounded to the nearest, so that whole numbers of examples come out of the sum
as they went in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from choral.core.aggregation import RingGrid
from choral.core.errors import NotFinite, OutOfRange
from choral.core.exact import Total, tensor_at
from choral.core.keys import Key
from choral.core.params import Spec
from choral.core.plan import Plan
from choral.core.update import Update
from choral.crypto.fixed_point import FixedPoint
from choral.crypto.ring import Ring, RingVector
from choral.federation.secure import extras_of

_BLOCK: Final = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class RingContribution:
    """An encoded update: it is masked before it leaves the client.

    Attributes:
        vector: Of the round's ring, shape `[spec.vector_size + extras]`.
    """

    vector: RingVector

    def with_vector(self, vector: RingVector) -> RingContribution:
        """Return the same contribution with its vector elsewhere in memory."""
        return RingContribution(vector)


def encode_ring(
    update: Update, spec: Spec, *, plan: Plan, grid: RingGrid, key: Key
) -> RingContribution:
    """Return `update` as elements of the round's ring.

    Args:
        update: A client's update over `spec`.
        spec: The model's schema.
        plan: The round's terms.
        grid: Its encoding.
        key: Rounding key of (run, round, client).

    Raises:
        WrongShape: The update does not fit `spec`.
        NotFinite: It holds NaN or infinity; the message names the tensor.
        OutOfRange: A coordinate is beyond `grid.range` or the weight beyond its cap.
    """
    update.check(spec)
    if update.weight > grid.weight_cap:
        raise OutOfRange(
            "a client's weight is above the round's declared cap",
            hint="raise `encoding: {weight_cap: …}`",
        )
    x = update.delta
    peak = float(np.maximum(x.max(initial=0.0), -x.min(initial=0.0)))
    if not math.isfinite(peak):
        raise NotFinite(
            f"{tensor_at(spec, ~np.isfinite(x))} holds NaN or infinity",
            hint="a smaller learning rate, or look for a division by zero in the client's data",
        )
    if peak > grid.range:
        raise OutOfRange(
            f"{tensor_at(spec, np.abs(x) == peak)} moved beyond the declared range {grid.range:g}",
            hint="raise `encoding: {range: …}`, standardise the features, or train more gently",
        )
    weight = 1.0 if plan.weighting == "uniform" else update.weight / grid.weight_unit
    fixed = FixedPoint(Ring(grid.modulus_bits), grid.bits, grid.range)
    vector = fixed.ring.zeros(x.size + extras_of(grid.metrics))
    fixed.encode_into(x, vector[: x.size], start=0, key=key, weight=weight)
    vector[x.size :].view(fixed.ring.signed)[...] = _extras(update, grid, weight)
    fixed.ring.reduce(vector[x.size :])
    return RingContribution(vector)


def _extras(update: Update, grid: RingGrid, weight: float) -> list[int]:
    """Return the secret elements after the model's."""
    whole = round(weight * grid.one)
    extras = [whole]
    for name, bound in grid.metrics:
        value = update.metrics.get(name, math.nan)
        if math.isfinite(value):
            clipped = min(max(float(value), -bound), bound)
            extras += [round(weight * clipped / bound * grid.one), whole]
        else:
            extras += [0, 0]
    return extras


def decode_ring(total: RingVector, spec: Spec, *, plan: Plan, grid: RingGrid, count: int) -> Total:
    """Return what a sum of contributions says.

    Args:
        total: The sum, in the ring. Where an element has four bytes, the mean takes its memory.
        spec: The model's schema.
        plan: The round's terms.
        grid: Its encoding.
        count: Contributions in it.

    Raises:
        OutOfRange: It is no sum of that many encoded updates: a client sent something else.
    """
    fixed = FixedPoint(Ring(grid.modulus_bits), grid.bits, grid.range)
    size = spec.vector_size
    weight, *extras = (int(v) for v in fixed.ring.centred(total[size:]))
    if not 0 <= weight <= count * grid.one:
        raise OutOfRange(
            f"the sum's weight is beyond what {count} contributions can reach",
            hint="a client sent something else than an encoded update: regroup",
        )
    same = total.dtype.itemsize == np.dtype(np.float32).itemsize
    mean = total[:size].view(np.float32) if same else np.empty(size, np.float32)
    factor = grid.one / weight if weight else 0.0
    for start in range(0, size, _BLOCK):
        part = slice(start, min(start + _BLOCK, size))
        values: npt.NDArray[np.float64] = fixed.decode(total[part], count=count, slack=0)
        mean[part] = values * factor
    unit = 1.0 if plan.weighting == "uniform" else grid.weight_unit
    metrics = {
        name: value / measured * bound
        for (name, bound), value, measured in zip(
            grid.metrics, extras[::2], extras[1::2], strict=True
        )
        if 0 < measured <= weight and abs(value) <= measured
    }
    return Total(mean, weight / grid.one * unit, count, metrics)
