"""What noise costs beside a secure sum without any.

A client of a secure round with distributed noise encodes its update with noise, and masks a vector
that the rotation has padded; without noise it rounds its update and masks it. Both are measured
with the real machines of a whole attempt, and encoded by the functions that clients run. Tables of
the noise are made once a run, and are not in it. Times are CPU times of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from choral.bench.attempt import Attempt, Watch, Workload
from choral.bench.machine import machine, row
from choral.bench.secagg import plan as plan_secagg
from choral.bench.secagg import room_for
from choral.core.checks import whole
from choral.core.keys import Key
from choral.crypto.fixed_point import FixedPoint
from choral.crypto.ring import Ring
from choral.crypto.secret import Secret
from choral.privacy import distributed
from choral.privacy.noise import discrete_gaussian, skellam
from choral.system import SystemRand

MODULUS_BITS: Final = 32
NOISE: Final = 1.0
"""Noise multiplier of the round; the cost does not depend on it."""

_RANGE: Final = 4.0
_KEY: Final = Key.root(1)

Pairs = list[tuple[float, float]]


def bench_privacy(
    *, clients: int = 100, params: int = 1_000_000, repeat: int = 5, watch: Watch
) -> dict[str, Any]:
    """Return what a secure round costs with distributed noise, beside one without.

    Args:
        clients: n, at least 3.
        params: Elements of an update, 1 or more.
        repeat: Measurements of what is encoded, decoded and drawn.
        watch: Told how far it is.

    Raises:
        ConfigError: An argument is out of range.
        PlanError: No secure sum of so many clients, or no grid for its noise.
        RunFailed: An attempt gave no sum, or a wrong one.
    """
    size = whole("params", params, least=1, most=2**32)
    repeat = whole("repeat", repeat, least=1, most=1000)
    with threadpool_limits(1):
        watch("terms", 0, 0)
        terms = _terms(clients, size)
        encoding = _encodings(terms, repeat, watch)
        decoding = _decodings(terms, repeat, watch)
        drawing = _draws(terms, repeat, watch)
        attempts = [_attempt(clients, n, watch) for n in (terms.size, size)]
    client = tuple(fmean(sum(c.seconds) for c in a.clients) for a in attempts)
    server = tuple(sum(a.server.seconds) for a in attempts)
    return {
        "name": "privacy",
        "machine": machine(),
        "workload": {
            "clients": clients,
            "params": size,
            "modulus_bits": MODULUS_BITS,
            "padded": terms.size,
            "mechanism": terms.mechanism.value,
            "sigma_of_a_client": terms.client_variance**0.5,
        },
        "rows": [
            row("client, CPU of a round", _plus(encoding, client), unit="s"),
            row("server, CPU of a round", _plus(decoding, server), unit="s"),
            row("client, encoding its update, CPU", encoding, unit="s"),
            row("server, decoding the sum, CPU", decoding, unit="s"),
            *drawing,
        ],
    }


def _terms(clients: int, size: int) -> distributed.Distributed:
    survivors = max(2, 4 * clients // 5)
    cohort = distributed.NoisedSum(
        bound=1.0,
        dimension=size,
        cohort=clients,
        survivors=survivors,
        corrupt=clients // 20,
        ring_bits=MODULUS_BITS,
    )
    return distributed.plan(cohort, multiplier=NOISE, delta=1e-5, rounds=1)


def _plus(pairs: Pairs, more: tuple[float, ...]) -> Pairs:
    return [(a + more[0], b + more[1]) for a, b in pairs]


def _attempt(clients: int, size: int, watch: Watch) -> Attempt:
    parameters = plan_secagg(clients, suite=None, dropout=0.0, corrupt=0.05)
    bits = room_for(parameters.clients, MODULUS_BITS)
    work = Workload(parameters, size, MODULUS_BITS, bits, {})
    return Attempt(work, rand=SystemRand(), watch=watch, between=lambda: None).run()


def _in_turn(ours: Callable[[], object], floor: Callable[[], object], *, repeat: int) -> Pairs:
    """Return CPU seconds of both, pair by pair, after one run of each that is not counted."""

    def seconds(work: Callable[[], object]) -> float:
        started = time.thread_time()
        work()
        return time.thread_time() - started

    seconds(ours), seconds(floor)
    return [(seconds(ours), seconds(floor)) for _ in range(repeat)]


def _encodings(terms: distributed.Distributed, repeat: int, watch: Watch) -> Pairs:
    watch("encoding", 0, 0)
    update = _KEY.rng().standard_normal(terms.dimension, np.float32)
    update /= np.sqrt(np.float32(terms.dimension))
    ring = Ring(MODULUS_BITS)
    fixed = FixedPoint(ring, room_for(terms.cohort, MODULUS_BITS), _RANGE)

    def noised() -> None:
        seed = Secret.random(SystemRand())
        distributed.encode(update, terms, rotation=_KEY, rounding=_KEY, seed=seed)

    def plain() -> None:
        out = ring.zeros(terms.dimension)
        fixed.encode_into(update, out, start=0, key=_KEY, weight=1.0)

    return _in_turn(noised, plain, repeat=repeat)


def _decodings(terms: distributed.Distributed, repeat: int, watch: Watch) -> Pairs:
    watch("decoding", 0, 0)
    ring = Ring(MODULUS_BITS)
    fixed = FixedPoint(ring, room_for(terms.cohort, MODULUS_BITS), _RANGE)
    total, plain = ring.zeros(terms.size), ring.zeros(terms.dimension)
    n = terms.cohort
    return _in_turn(
        lambda: distributed.decode(total, terms, rotation=_KEY, survivors=n),
        lambda: fixed.decode(plain, count=n, slack=0),
        repeat=repeat,
    )


def _draws(terms: distributed.Distributed, repeat: int, watch: Watch) -> list[dict[str, Any]]:
    """Return rows of noise beside draws of NumPy, which are no secret and on no grid."""
    watch("noise", 0, 0)
    size, variance = terms.size, terms.client_variance
    rng = _KEY.rng()
    noises: dict[str, Callable[[], object]] = {
        "Skellam": lambda: skellam(Secret.random(SystemRand()), variance=variance, size=size),
        "discrete Gaussian": lambda: discrete_gaussian(
            Secret.random(SystemRand()), sigma=variance**0.5, size=size
        ),
    }
    rows = []
    for name, draw in noises.items():
        pairs = _in_turn(draw, lambda: rng.standard_normal(size), repeat=repeat)
        each = [(1e9 * a / size, 1e9 * b / size) for a, b in pairs]
        rows.append(row(f"a draw of {name} noise, CPU", each, unit="ns"))
    return rows
