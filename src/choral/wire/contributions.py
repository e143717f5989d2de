"""Contributions as they travel: raw little-endian numbers, in the server's own schema.

In the clear (`Kind.CONTRIBUTION`), for a model of n aggregated elements and k metrics:

| bytes | |
|---|---|
| 4 n | the vector, int32 |
| 8 | the weight, int64, in units of 2^-30 |
| 2 + length + 8, k times | a metric: the length of its name, the name in UTF-8, the value, int64 |

Values are in units of 2^-40. Metrics are in the order of their names' bytes, each once, so a
contribution has one spelling. A masked vector (`Kind.MASKED`) is the elements of its ring and
nothing else.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from choral.core.aggregation import RingGrid
from choral.core.errors import OutOfRange, UpdateRejected, WrongShape
from choral.core.exact import Contribution, Encoding
from choral.core.params import Spec
from choral.crypto.ring import Ring, RingVector
from choral.federation.secure import extras_of
from choral.wire.frames import Part

MAX_METRICS: Final = 256
MAX_NAME_BYTES: Final = 256

_WEIGHT: Final = struct.Struct("<q")
_LENGTH: Final = struct.Struct("<H")


def contribution_limit(spec: Spec) -> int:
    """Return the most bytes of a contribution to a sum over `spec`."""
    metric = _LENGTH.size + MAX_NAME_BYTES + _WEIGHT.size
    return 4 * spec.vector_size + _WEIGHT.size + MAX_METRICS * metric


def masked_bytes(spec: Spec, grid: RingGrid) -> int:
    """Return the bytes of a masked vector in a sum over `spec`: all of them have as many."""
    return (spec.vector_size + extras_of(grid.metrics)) * Ring(grid.modulus_bits).width


def contribution_blocks(contribution: Contribution) -> list[Part]:
    """Return a contribution's bytes in order; the vector's are not copied.

    Raises:
        UpdateRejected: It has too many metrics, or one whose name is too long.
        OutOfRange: A number does not fit in 8 bytes.
    """
    metrics = sorted((name.encode(), value) for name, value in contribution.metrics.items())
    if len(metrics) > MAX_METRICS:
        raise UpdateRejected(f"{len(metrics)} metrics, expected up to {MAX_METRICS}")
    tail = bytearray()
    try:
        tail += _WEIGHT.pack(contribution.weight)
        for name, value in metrics:
            if not 0 < len(name) <= MAX_NAME_BYTES:
                raise UpdateRejected(
                    f"a metric's name of {len(name)} bytes, expected 1 to {MAX_NAME_BYTES}"
                )
            tail += _LENGTH.pack(len(name)) + name + _WEIGHT.pack(value)
    except struct.error:
        raise OutOfRange("a weight or metric that is no signed integer of 8 bytes") from None
    vector = np.ascontiguousarray(contribution.vector, "<i4")
    return [vector.view(np.uint8).data, bytes(tail)]


def contribution_from_bytes(raw: Part, spec: Spec, encoding: Encoding) -> Contribution:
    """Return the contribution of some bytes; its vector is a view of them.

    Args:
        raw: What a client sent.
        spec: The coordinator's own schema of the model.
        encoding: The grid of the round.

    Raises:
        WrongShape: There are too few bytes for the vector and the weight.
        OutOfRange: The weight is below 0 or above the round's cap.
        UpdateRejected: What follows is no list of metrics in their order.
    """
    view = memoryview(raw).cast("B")
    at = 4 * spec.vector_size
    if view.nbytes < at + _WEIGHT.size:
        raise WrongShape(
            f"a contribution of {view.nbytes} bytes, expected at least {at + _WEIGHT.size}: "
            f"{spec.vector_size} elements and the weight"
        )
    vector: npt.NDArray[np.int32] = np.frombuffer(view[:at], "<i4").astype(np.int32, copy=False)
    weight, metrics = tail_from_bytes(view[at:], encoding)
    return Contribution(vector, weight, metrics)


def tail_from_bytes(raw: Part, encoding: Encoding) -> tuple[int, dict[str, int]]:
    """Return weight and metrics of a contribution from the bytes after its vector.

    Raises:
        WrongShape: They are too few for the weight.
        OutOfRange: The weight is below 0 or above the round's cap.
        UpdateRejected: What follows is no list of metrics in their order.
    """
    view = memoryview(raw).cast("B")
    if view.nbytes < _WEIGHT.size:
        raise WrongShape(f"{view.nbytes} bytes after the vector, expected at least {_WEIGHT.size}")
    (weight,) = _WEIGHT.unpack_from(view)
    cap = encoding.encode_weight(encoding.weight_cap)
    if not 0 <= weight <= cap:
        raise OutOfRange(f"encoded weight {weight}, expected 0 to {cap}")
    return weight, _read_metrics(view[_WEIGHT.size :])


def _read_metrics(view: memoryview) -> dict[str, int]:
    """Return the metrics at the end of a contribution."""
    found: dict[str, int] = {}
    at, last = 0, b""
    while at < view.nbytes:
        start = at + _LENGTH.size
        size = _LENGTH.unpack_from(view, at)[0] if start <= view.nbytes else 0
        stop = start + size
        if not 0 < size <= MAX_NAME_BYTES or stop + _WEIGHT.size > view.nbytes:
            raise UpdateRejected(
                f"a metric that ends before its {size} bytes of name and its value"
            )
        name = bytes(view[start:stop])
        if name <= last or len(found) == MAX_METRICS:
            raise UpdateRejected(
                f"metrics out of order, repeated, or more than {MAX_METRICS} of them"
            )
        found[_metric_name(name)] = _WEIGHT.unpack_from(view, stop)[0]
        at, last = stop + _WEIGHT.size, name
    return found


def _metric_name(raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise UpdateRejected("a metric's name that is not UTF-8") from None
    if not name.isprintable():
        raise UpdateRejected(f"metric name {name!r}, expected a word")
    return name


def masked_blocks(vector: RingVector, grid: RingGrid) -> list[Part]:
    """Return a masked vector's bytes; without a copy but in the ring of 2^24."""
    return [Ring(grid.modulus_bits).pack(vector)]


def masked_from_bytes(raw: Part, spec: Spec, grid: RingGrid) -> RingVector:
    """Return the masked vector of some bytes.

    Raises:
        WrongShape: They are more or fewer than `masked_bytes`.
    """
    view = memoryview(raw).cast("B")
    expected = masked_bytes(spec, grid)
    if view.nbytes != expected:
        raise WrongShape(f"a masked vector of {view.nbytes} bytes, expected {expected}")
    return Ring(grid.modulus_bits).unpack(view)
