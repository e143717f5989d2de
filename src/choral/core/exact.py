r"""Sums that do not depend on their order.

A client turns its weighted update into integers on a declared grid; the coordinator adds them.
Integer addition is associative, so any arrival order, sharding, worker count or retry gives the
same bits. With grid g = range / 2^31 and normalised weight w = weight / weight_unit, a client sends

    q = floor(w * x / g + u),   u uniform in [0, 1) from its rounding key,

with u the middle of one of 2^16 equal steps, so that q is unbiased up to 2^-17 of a grid step. The
decoded mean of n clients differs from the exact weighted mean, for weights w_i that are multiples
of weight_unit / 2^30 (whole numbers are, for a unit up to 2^30), by at most

    n * g / sum(w_i)            per coordinate, plus one float32 rounding,

and by about sqrt(n) * g / (2 * sum(w_i)) in standard deviation. With the default range of 256 the
grid is 1.2e-7, the spacing of float32 numbers near 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from choral.core.checks import real
from choral.core.errors import ConfigError, NotFinite, OutOfRange, WrongShape
from choral.core.keys import Key
from choral.core.params import Spec, Vector
from choral.core.update import Update

BITS: Final = 32
WEIGHT_BITS: Final = 30
METRIC_BITS: Final = 40
MAX_COUNT: Final = 2**31
"""Contributions that one int64 sum holds without overflow: 2^31 times 2^31 stays below 2^63."""

_BLOCK: Final = 15 << 10
"""Coordinates at a time: below the 128 KiB from which malloc maps fresh pages at every call."""
_LIMIT: Final = 2.0**31 - 1


def grid_setting(name: str, value: Any) -> float:
    """Return a field of `Encoding` as a float, or raise `ConfigError` beyond 2^-20 to 2^40."""
    return real(f"encoding.{name}", value, least=2.0**-20, most=2.0**40)


def power_of_two(value: float) -> float:
    """Return the smallest power of two that is at least `value`, which is above 0."""
    fraction, exponent = math.frexp(value)
    return float(2.0 ** (exponent - (fraction == 0.5)))


@dataclass(frozen=True, slots=True)
class Encoding:
    """The grid of a round's sum, part of its plan.

    Attributes:
        range: Bound of |w * x| for one coordinate of one update, w its normalised weight; rounded
            up to a power of two, 2^-20 to 2^40.
        weight_unit: The weight that counts as 1; rounded up to a power of two. Clients far below
            it lose precision, clients far above it lose range.
        weight_cap: Weight above which a client is refused, so that none can outweigh all others by
            a claim; at most 2^20 times the unit.
    """

    range: float = 256.0
    weight_unit: float = 1024.0
    weight_cap: float = 2.0**20

    def __post_init__(self) -> None:
        for name in ("range", "weight_unit", "weight_cap"):
            object.__setattr__(self, name, grid_setting(name, getattr(self, name)))
        for name in ("range", "weight_unit"):
            object.__setattr__(self, name, power_of_two(getattr(self, name)))
        if self.weight_cap > self.weight_unit * 2**20:
            raise ConfigError(
                f"encoding.weight_cap {self.weight_cap}: expected at most 2^20 times the unit, "
                f"{self.weight_unit * 2**20:g}"
            )

    @property
    def grid(self) -> float:
        """Distance of two neighbouring values of w * x."""
        return self.range * 2.0 ** (1 - BITS)

    def encode_weight(self, weight: float) -> int:
        """Return a weight normalised, in units of 2^-30."""
        return round(weight / self.weight_unit * 2.0**WEIGHT_BITS)

    def error_bound(self, count: int, weight: float) -> float:
        """Return the largest error per coordinate of a decoded mean, before float32 rounding.

        Args:
            count: Contributions in the sum.
            weight: Sum of their weights, in the units of `Update.weight`; each a multiple of
                `weight_unit` / 2^30.
        """
        return count * self.grid * self.weight_unit / weight


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """An encoded update: what leaves a client in a plain round.

    Attributes:
        vector: int32, shape `[spec.vector_size]`, units of `Encoding.grid`.
        weight: Normalised weight in units of 2^-30, 0 to 2^30 times cap over unit.
        metrics: Name to normalised weight times value in units of 2^-40.
    """

    vector: npt.NDArray[np.int32]
    weight: int
    metrics: Mapping[str, int] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Payload on the wire: the vector, the weight and the metrics as 8-byte integers."""
        return self.vector.nbytes + 8 + 16 * len(self.metrics)

    def with_vector(self, vector: npt.NDArray[np.int32]) -> Contribution:
        """Return the same contribution with its vector elsewhere in memory."""
        return Contribution(vector, self.weight, self.metrics)

    def metric(self, name: str) -> float:
        """Return one metric as its client reported it; 0 where it is absent or has no weight."""
        return _ratio(self.metrics.get(name, 0), self.weight) if self.weight else 0.0


def encode(update: Update, spec: Spec, encoding: Encoding, key: Key) -> Contribution:
    """Return `update` as integers on the round's grid.

    Args:
        update: A client's update over `spec`.
        spec: The model's schema.
        encoding: The grid.
        key: Rounding key of (run, round, client).

    Raises:
        WrongShape: The update does not fit `spec`.
        NotFinite: It holds NaN or infinity; the message names the tensor.
        OutOfRange: A coordinate is beyond `encoding.range` or the weight beyond its cap.
    """
    update.check(spec)
    claimed = float(update.weight)
    if claimed > encoding.weight_cap:
        raise OutOfRange(
            f"weight {claimed:g} is above the round's cap {encoding.weight_cap:g}",
            hint="raise `encoding: {weight_cap: …}`",
        )
    weight = encoding.encode_weight(claimed)
    if claimed and not weight:
        raise OutOfRange(
            f"weight {claimed:g} is nothing beside the unit {encoding.weight_unit:g}",
            hint="weights of one federation should not differ by a factor of 2^30",
        )
    share = weight * 2.0**-WEIGHT_BITS
    x = update.delta
    peak = float(np.maximum(x.max(initial=0.0), -x.min(initial=0.0)))
    if not math.isfinite(peak):
        raise NotFinite(
            f"{tensor_at(spec, ~np.isfinite(x))} holds NaN or infinity",
            hint="a smaller learning rate, or look for a division by zero in the client's data",
        )
    scale = share / encoding.grid
    if peak * scale > _LIMIT:
        raise OutOfRange(
            f"{tensor_at(spec, np.abs(x) == peak)} moved by {peak:g}, beyond the declared "
            f"range {encoding.range:g}",
            hint="raise `encoding: {range: …}`, standardise the features, or train more gently",
        )
    unit = share * 2.0**METRIC_BITS
    for name, value in update.metrics.items():
        if not abs(float(value) * unit) < 2.0**63:
            raise OutOfRange(
                f"metric `{name}` is {float(value):g}, too large for the sum's 8 bytes"
            )
    metrics = {name: round(float(value) * unit) for name, value in update.metrics.items()}
    return Contribution(_round(x, scale, key), weight, metrics)


def _round(x: Vector, scale: float, key: Key) -> npt.NDArray[np.int32]:
    """Return floor(x * scale + u) block by block, in float64 and so exactly."""
    out = np.empty(x.shape, np.int32)
    bits = key.bits()
    noisy, draws = np.empty((2, min(_BLOCK, x.size)))
    for start in range(0, x.size, _BLOCK):
        part = x[start : start + _BLOCK]
        y, u = noisy[: part.size], draws[: part.size]
        raw = bits.random_raw(-(-part.size // 4)).view(np.uint16)[: part.size]
        np.multiply(raw, 2.0**-16, out=u)
        np.multiply(part, scale, out=y, dtype=np.float64)
        y += u
        y += 2.0**-17
        np.floor(y, out=y)
        out[start : start + _BLOCK] = y
    return out


def tensor_at(spec: Spec, bad: npt.NDArray[np.bool_]) -> str:
    """Return, for a message, which tensor the first marked coordinate belongs to."""
    at = int(np.argmax(bad))
    for t in spec.aggregated:
        if at < t.size:
            return f"tensor `{t.name}`"
        at -= t.size
    return "the update"


@dataclass(frozen=True, slots=True, eq=False)
class Total:
    """An exact sum, decoded.

    Attributes:
        mean: Weighted mean of the updates, float32, shape `[spec.vector_size]`.
        weight: Sum of the weights, in the units of `Update.weight`.
        count: Contributions in the sum.
        metrics: Weighted mean of each metric over the clients that reported it.
    """

    mean: Vector
    weight: float
    count: int
    metrics: Mapping[str, float]


class ExactSum:
    """Accumulator of contributions; memory does not grow with their number.

    Guarantees: any order of `add` and `merge` over the same contributions gives equal state.
    Not in here: who contributed. The round machine sees to it that each client is added once.

    Args:
        size: Elements of the vector.
        encoding: The grid that the contributions are on.
    """

    __slots__ = ("_metrics", "_vector", "count", "encoding", "weight")

    def __init__(self, size: int, encoding: Encoding) -> None:
        self.encoding = encoding
        self._vector: npt.NDArray[np.int64] = np.zeros(size, np.int64)
        self._metrics: dict[str, tuple[int, int]] = {}
        self.weight = 0
        self.count = 0

    def add(self, contribution: Contribution) -> None:
        """Add one contribution.

        Raises:
            WrongShape: Its vector has another length or dtype.
            OutOfRange: Its weight is below 0 or above the cap, or the sum is full.
        """
        vector = contribution.vector
        if vector.shape != self._vector.shape or vector.dtype != np.int32:
            raise WrongShape(
                f"contribution {vector.dtype}{list(vector.shape)}, "
                f"expected int32{list(self._vector.shape)}"
            )
        self.add_blocks((vector,), weight=contribution.weight, metrics=contribution.metrics)

    def add_blocks(
        self,
        blocks: Iterable[npt.NDArray[np.int32]],
        *,
        weight: int,
        metrics: Mapping[str, int],
    ) -> None:
        """Add one contribution that comes block by block.

        Args:
            blocks: Together its vector, in order.
            weight: As in `Contribution`.
            metrics: As in `Contribution`.

        Raises:
            OutOfRange: Its weight is below 0 or above the cap, or the sum is full; it is then as
                it was.
            WrongShape: The blocks are longer or shorter than the vector; the sum is of no use then.
        """
        limit = self.encoding.encode_weight(self.encoding.weight_cap)
        if type(weight) is not int or not 0 <= weight <= limit:
            raise OutOfRange(f"encoded weight {weight!r}, expected a whole number, 0 to {limit}")
        for name, value in metrics.items():
            if type(value) is not int or not -(2**63) <= value < 2**63:
                raise OutOfRange(f"encoded metric `{name}` is no signed integer of 8 bytes")
        self._room(1)
        at = 0
        for block in blocks:
            part = self._vector[at : at + block.size]
            if part.size != block.size:
                break
            np.add(part, block, out=part)
            at += block.size
        else:
            if at == self._vector.size:
                self._count(1, weight)
                for name, value in metrics.items():
                    self._add_metric(name, value, weight)
                return
        raise WrongShape(f"a contribution of other than {self._vector.size} elements")

    def merge(self, other: ExactSum) -> None:
        """Add another sum of the same size on the same grid."""
        if other._vector.shape != self._vector.shape:
            raise WrongShape(f"sum of {other._vector.size}, expected {self._vector.size}")
        if other.encoding != self.encoding:
            raise WrongShape(f"sum on the grid {other.encoding}, expected {self.encoding}")
        self._room(other.count)
        np.add(self._vector, other._vector, out=self._vector)
        self._count(other.count, other.weight)
        for name, (value, weight) in other._metrics.items():
            self._add_metric(name, value, weight)

    def _room(self, count: int) -> None:
        if self.count + count > MAX_COUNT:
            raise OutOfRange(f"more than {MAX_COUNT} contributions in one sum")

    def _count(self, count: int, weight: int) -> None:
        self.count += count
        self.weight += weight

    def _add_metric(self, name: str, value: int, weight: int) -> None:
        old_value, old_weight = self._metrics.get(name, (0, 0))
        self._metrics[name] = (old_value + value, old_weight + weight)

    def total(self, *, last: bool = False) -> Total:
        """Return the decoded mean.

        Edge case: a sum of weight zero decodes to a zero vector and no metrics.

        Args:
            last: The sum is not needed any more: the mean takes its memory, and the sum is empty.
        """
        share = self.weight * 2.0**-WEIGHT_BITS
        factor = self.encoding.grid / share if self.weight else 0.0
        vector = self._vector
        size = vector.size
        mean = vector.view(np.float32)[:size] if last else np.empty(size, np.float32)
        for start in range(0, size, _BLOCK):
            part = slice(start, start + _BLOCK)
            mean[part] = vector[part] * factor  # behind what is still to be read
        if last:
            del mean
            self._vector = np.zeros(0, np.int64)
            vector.resize((size + 1) // 2, refcheck=False)  # gives the second half back
            mean = vector.view(np.float32)[:size]
        metrics = {
            name: _ratio(value, weight)
            for name, (value, weight) in sorted(self._metrics.items())
            if weight
        }
        return Total(mean, share * self.encoding.weight_unit, self.count, metrics)

    def state(self) -> dict[str, Any]:
        """Return everything in this sum as plain values, for comparison and storage."""
        return {
            "vector": self._vector.copy(),
            "weight": self.weight,
            "count": self.count,
            "metrics": dict(sorted(self._metrics.items())),
        }


def _ratio(value: int, weight: int) -> float:
    """Return a metric's mean from its units of 2^-40 and the weight's of 2^-30."""
    return value / (weight << (METRIC_BITS - WEIGHT_BITS))
