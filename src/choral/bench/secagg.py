"""Secure aggregation beside the bare primitives that its protocol cannot do without.

One attempt runs from the invitations to the sum, with the real machines and the randomness of the
operating system. Its vectors follow a rule, so that the sum is known and is compared to the bit.
A floor is how often a party must do a primitive, times what that primitive takes by hand in the
same run; messages, checks and bookkeeping are not in it. Times are CPU times of one thread.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from statistics import fmean, median
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from choral.bench.attempt import STEPS, Attempt, Cost, Watch, Workload
from choral.bench.floors import Floors
from choral.bench.footprint import footprints
from choral.bench.machine import machine, row
from choral.core.checks import whole
from choral.core.errors import PlanError, UnknownName
from choral.core.keys import Key
from choral.crypto.fixed_point import MAX_BITS, MIN_BITS, FixedPoint
from choral.crypto.ring import Ring
from choral.secagg.parameters import (
    CORRUPT,
    MAX_FULL,
    SIGMA,
    Parameters,
    Suite,
    find,
    full_threshold,
    verify,
)
from choral.system import SystemRand

SEED: Final = 1
"""Of the choice of who is lost, and where."""

ANY: Final = "any"


def bench_secagg(
    *,
    clients: int = 100,
    params: int = 1_000_000,
    dropout: float = 0.0,
    corrupt: float = CORRUPT,
    suite: str | None = None,
    lost_at: str = ANY,
    modulus_bits: int = 32,
    repeat: int = 1,
    watch: Watch,
) -> dict[str, Any]:
    """Return what one attempt costs each party, beside its floor.

    Args:
        clients: n.
        params: Elements of a vector, 1 or more.
        dropout: Fraction that is lost on the way, and that the graph is made for.
        corrupt: Fraction that may help the server.
        suite: `full`, `graph` or `semi_honest`; None for what a cohort of n takes.
        lost_at: Step at which clients are lost, R0 to R4, or `any`.
        modulus_bits: m.
        repeat: Attempts.
        watch: Told how far it is.

    Raises:
        ConfigError: An argument is out of range.
        PlanError: The suite does not fit the cohort, or the modulus holds no sum.
        RunFailed: An attempt gave no sum, or a wrong one.
    """
    size = whole("params", params, least=1, most=2**32)
    parameters = plan(clients, suite=suite, dropout=dropout, corrupt=corrupt)
    runs = []
    with threadpool_limits(1):
        for turn in range(whole("repeat", repeat, least=1, most=1000)):
            work = Workload(
                parameters,
                size,
                modulus_bits,
                room_for(parameters.clients, modulus_bits),
                losses(parameters, fraction=dropout, lost_at=lost_at, turn=turn),
            )
            runs.append(_measured(work, watch))
        watch("memory", 0, 0)
        memory = footprints(runs[-1][0].recording)
        encoding = _encoding_seconds(work)
    return {
        "name": "secagg",
        "machine": machine(),
        "workload": {
            **parameters.as_json(),
            "params": size,
            "modulus_bits": modulus_bits,
            "lost": _lost_by_step(work),
            "survivors": len(runs[-1][0].survivors),
            "exact": True,
        },
        "rows": _rows(runs, memory, encoding, width=modulus_bits // 8),
        "steps": _steps([attempt for attempt, _ in runs]),
        "primitives": _primitives(runs),
    }


# --- the workload ---------------------------------------------------------------------------------


def plan(clients: int, *, suite: str | None, dropout: float, corrupt: float) -> Parameters:
    """Return the parameters of a suite by name; a random graph is seeded by a beacon.

    Raises:
        UnknownName: No such suite.
        PlanError: It does not fit the cohort.
    """
    if suite is not None and suite not in set(Suite):
        raise UnknownName(f"unknown suite `{suite}`", hint=f"known: {', '.join(Suite)}")
    semi_honest = suite == Suite.SEMI_HONEST
    if suite == Suite.GRAPH and clients <= MAX_FULL:
        raise PlanError(
            f"suite graph for {clients} clients: expected more than {MAX_FULL}",
            hint="a small cohort takes the complete graph",
        )
    if suite != Suite.FULL or clients <= MAX_FULL:
        return find(clients, corrupt=corrupt, dropout=dropout, semi_honest=semi_honest, beacon=True)
    t = full_threshold(clients)
    found = Parameters(Suite.FULL, clients, clients - 1, t, corrupt, dropout, SIGMA)
    verify(found)
    if _lost_count(found, dropout) > clients - t:
        raise PlanError(f"{dropout:g} of {clients} clients lost: threshold {t} does not allow it")
    return found


def room_for(clients: int, modulus_bits: int) -> int:
    """Return the most bits a coordinate can have so that the sum does not wrap around.

    Raises:
        ConfigError: There is no such ring.
        PlanError: Fewer than 2.
    """
    bits = min(MAX_BITS, Ring(modulus_bits).bits - (clients - 1).bit_length() - 1)
    if bits < MIN_BITS:
        raise PlanError(f"a modulus of {modulus_bits} bits holds no sum of {clients} clients")
    return bits


def _lost_count(parameters: Parameters, fraction: float) -> int:
    return int(fraction * parameters.clients + 1e-9)


def losses(parameters: Parameters, *, fraction: float, lost_at: str, turn: int) -> dict[int, int]:
    """Return who is lost and from which step on: the same in every run of the bench.

    Raises:
        UnknownName: No such step.
    """
    steps = {"R0": 0, "R1": 1, "R2": 2, "R3": 3, "R4": 4}
    if parameters.suite is Suite.SEMI_HONEST:
        del steps["R3"]
    if lost_at not in {ANY, *steps}:
        raise UnknownName(
            f"unknown step `{lost_at}` of {parameters.suite}",
            hint=f"known: {ANY}, {', '.join(steps)}",
        )
    rng = Key.root(SEED).fold("lost", turn).rng()
    count = _lost_count(parameters, fraction)
    who = rng.permutation(parameters.clients)[:count].tolist()
    possible = list(steps.values()) if lost_at == ANY else [steps[lost_at]]
    where = rng.integers(0, len(possible), count).tolist()
    return {client: possible[at] for client, at in zip(who, where, strict=True)}


def _lost_by_step(work: Workload) -> dict[str, int]:
    counted = Counter(work.lost.values())
    return {f"R{step}": counted[step] for step in sorted(counted)}


# --- the measurement ------------------------------------------------------------------------------

_Run = tuple[Attempt, dict[str, float]]


def _measured(work: Workload, watch: Watch) -> _Run:
    """Return an attempt and the primitives as they were meanwhile."""
    p = work.parameters
    floors = Floors(size=work.size, modulus_bits=work.modulus_bits, holders=p.k + 1, threshold=p.t)
    floors.sample()
    watch("enrolment", 0, 0)
    attempt = Attempt(work, rand=SystemRand(), watch=watch, between=floors.sample).run()
    floors.sample()
    attempt.finish_work()
    return attempt, floors.seconds()


def _encoding_seconds(work: Workload) -> float:
    """Return what it takes to make a vector from float32 coordinates; the median of three."""
    ring, key = Ring(work.modulus_bits), Key.root(SEED)
    x = key.rng().standard_normal(work.size, np.float32)
    out, fixed = ring.zeros(work.size), FixedPoint(ring, work.bits, 4.0)
    taken = []
    for _ in range(3):
        started = time.thread_time()
        fixed.encode_into(x, out, start=0, key=key, weight=0.5)
        taken.append(time.thread_time() - started)
    return median(taken)


# --- the report -----------------------------------------------------------------------------------


def _staying(attempt: Attempt) -> list[Cost]:
    """Return the costs of those that were there to the end: they did all there is to do."""
    return [c for c in attempt.clients if c.seconds[-1] > 0]


def _floor(cost: Cost, seconds: dict[str, float]) -> float:
    return sum(times * seconds[name] for name, times in cost.work.items())


def _mean(costs: Iterable[Cost], of: Callable[[Cost], float]) -> float:
    return fmean(of(cost) for cost in costs)


def _rows(
    runs: list[_Run], memory: dict[str, int], encoding: float, *, width: int
) -> list[dict[str, Any]]:
    size = runs[0][0].size
    clients, servers, uploads, slowest = [], [], [], []
    for attempt, seconds in runs:
        staying = _staying(attempt)
        ours = _mean(staying, lambda c: sum(c.seconds))
        clients.append((ours, _mean(staying, lambda c: _floor(c, seconds))))  # noqa: B023
        slowest.append(max(sum(c.seconds) for c in staying))
        servers.append((sum(attempt.server.seconds), _floor(attempt.server, seconds)))
        uploads.append((_mean(staying, lambda c: c.up) / size, float(width)))
    down = median(_mean(_staying(attempt), lambda c: c.down) for attempt, _ in runs)
    vector = size * runs[0][0].itemsize
    return [
        {**row("client, CPU", clients, unit="s"), "max": median(slowest)},
        row("server, CPU", servers, unit="s"),
        row("client, upload", uploads, unit="bytes/parameter"),
        _lone("client, download", down / 1e3, "kB"),
        _lone("client, encoding its update, CPU", encoding, "s"),
        row("client, memory", [(memory["client"] / 1e6, vector / 1e6)], unit="MB"),
        row("server, memory of the sum", [(memory["sum"] / 1e6, vector / 1e6)], unit="MB"),
        _lone("server, memory of messages", memory["messages"] / 1e6, "MB"),
    ]


def _lone(workload: str, ours: float, unit: str) -> dict[str, Any]:
    """Return a row that has no floor."""
    return {"workload": workload, "ours": ours, "floor": None, "unit": unit, "ratio": None}


def _steps(attempts: list[Attempt]) -> list[dict[str, Any]]:
    """Return CPU seconds by step."""
    found = []
    for at, name in enumerate(STEPS):
        client = median(_mean(_staying(a), lambda c: c.seconds[at]) for a in attempts)  # noqa: B023
        server = median(a.server.seconds[at] for a in attempts)
        found.append({"step": name, "client_s": client, "server_s": server})
    return found


def _primitives(runs: list[_Run]) -> list[dict[str, Any]]:
    """Return what the floors are made of."""
    attempt = runs[-1][0]
    staying = _staying(attempt)
    found = []
    for name in runs[0][1]:
        each = median(seconds[name] for _, seconds in runs)
        client = _mean(staying, lambda c: c.work[name])  # noqa: B023
        server = attempt.server.work[name]
        found.append(
            {
                "primitive": name,
                "seconds": each,
                "client_times": client,
                "client_s": client * each,
                "server_times": server,
                "server_s": server * each,
            }
        )
    return found
