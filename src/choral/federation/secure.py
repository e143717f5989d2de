"""What a plan with secure aggregation means: groups, parameters, quorum, ring and signed context.

Coordinator and clients compute all of it from the same plan, so that a client can refuse a context
that is not what it follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from typing import Any, Final

from choral.core.aggregation import RingGrid, Secure
from choral.core.errors import PlanError
from choral.core.keys import Key
from choral.core.params import ClientId
from choral.core.plan import Plan
from choral.core.protection import Protection
from choral.crypto.fixed_point import MAX_BITS
from choral.crypto.prg import Generator
from choral.privacy.rotation import padded
from choral.secagg.context import VERSION, Context, RingEncoding
from choral.secagg.parameters import (
    MAX_FULL,
    MIN_COHORT_DEVICES,
    MIN_COHORT_SILOS,
    Parameters,
    Suite,
    find,
)

LEAST_BITS: Final = 8
"""Bits of a coordinate below which rounding drowns what a client has learned."""


def parameters_of(terms: Secure, clients: int) -> Parameters:
    """Return suite, neighbours and threshold of a sum over so many invited clients.

    Raises:
        PlanError: The suite is for other cohorts, or no parameters keep the promise.
    """
    complete = clients <= MAX_FULL
    if terms.suite == Suite.FULL and not complete:
        raise PlanError(
            f"suite `full` is for cohorts up to {MAX_FULL}, this one has {clients}",
            hint="`suite: graph`, or leave it out",
        )
    if terms.suite == Suite.GRAPH and complete:
        raise PlanError(
            f"suite `graph` is for cohorts above {MAX_FULL}, this one has {clients}",
            hint="`suite: full`, or leave it out",
        )
    semi_honest = terms.suite == Suite.SEMI_HONEST
    if not complete:
        return find(clients, corrupt=terms.corrupt, dropout=terms.dropout, semi_honest=semi_honest)
    # The complete graph's threshold follows from n alone: a third may collude, few may be lost.
    return find(clients, corrupt=0.0, dropout=0.0, semi_honest=semi_honest)


def min_cohort_of(terms: Secure, clients: int) -> int:
    """Return n_min: what the terms say, else the default for cohorts of this size."""
    if terms.min_cohort is not None:
        return terms.min_cohort
    return MIN_COHORT_SILOS if clients <= MAX_FULL else MIN_COHORT_DEVICES


def sizes_of(terms: Secure, clients: int) -> tuple[int, ...]:
    """Return the sizes of the groups of a cohort; they differ by one at most.

    >>> sizes_of(Secure(groups=3, rule="median"), 11)
    (4, 4, 3)
    """
    size, larger = divmod(clients, terms.groups)
    return tuple(size + (i < larger) for i in range(terms.groups))


def quorum_of(terms: Secure, clients: int) -> int:
    """Return the fewest survivors with which a round of so many invited clients can close.

    With groups, a majority of them must reach a sum of its own.

    Raises:
        PlanError: No parameters keep the promise for this cohort.
    """
    each = sorted(
        max(parameters_of(terms, n).t, min_cohort_of(terms, n)) for n in sizes_of(terms, clients)
    )
    return sum(each[: groups_needed(terms)])


def groups_needed(terms: Secure) -> int:
    """Return how many groups must reach their sum: a majority."""
    return terms.groups // 2 + 1


def check_cohort(terms: Secure, clients: int) -> None:
    """Refuse a cohort in which some sum could never be made.

    Raises:
        PlanError: A group is below the floor, or the ring is too small for it.
    """
    size = min(sizes_of(terms, clients))
    floor = min_cohort_of(terms, size)
    if size < floor:
        what = "a cohort" if terms.groups == 1 else f"{terms.groups} groups, the smallest"
        raise PlanError(
            f"{what} of {size} clients is below the floor of {floor}",
            hint="more clients a round"
            + (", fewer groups" if terms.groups > 1 else "")
            + (f", or `min_cohort: {size}` by name" if size >= 2 else ""),
        )
    quorum_of(terms, clients)
    bits_of(terms, clients)


def bits_of(terms: Secure, clients: int) -> int:
    """Return b: the most bits of a coordinate with which no sum of the round can overflow.

    Raises:
        PlanError: They are too few to say anything.
    """
    most = max(sizes_of(terms, clients))
    bits = min(MAX_BITS, terms.modulus_bits - 1 - (most - 1).bit_length())
    if bits < LEAST_BITS:
        raise PlanError(
            f"a modulus of {terms.modulus_bits} bits leaves {bits} bits a coordinate in a sum of "
            f"{most} clients, expected at least {LEAST_BITS}",
            hint="a larger `modulus_bits`, or a smaller cohort",
        )
    return bits


def losses_of(terms: Secure, clients: int) -> int:
    """Return how many clients may be lost, wherever they are, before a round cannot close.

    With groups, the cheapest way to stop a round is to stop the groups that are missed least.
    """
    each = []
    for size in sizes_of(terms, clients):
        parameters = parameters_of(terms, size)
        room = size - max(parameters.t, min_cohort_of(terms, size))
        each.append(room if parameters.complete else min(room, parameters.tolerated_losses))
    spare = terms.groups - groups_needed(terms)
    return sum(room + 1 for room in sorted(each)[: spare + 1]) - 1


def promise_of(terms: Secure, clients: int) -> dict[str, Any]:
    """Return what a secure round over so many invited clients promises, as JSON.

    Where groups differ in size, it is the smallest one's.
    """
    size = min(sizes_of(terms, clients))
    parameters = parameters_of(terms, size)
    body: dict[str, Any] = {
        "kind": terms.kind,
        "suite": str(parameters.suite),
        "threat_model": str(parameters.threat_model),
        "threshold": max(parameters.t, min_cohort_of(terms, size)),
        "tolerated_losses": losses_of(terms, clients),
    }
    if terms.groups > 1:
        body |= {"groups": terms.groups, "group_size": size, "rule": terms.rule}
    return body


def grid_of(
    terms: Secure,
    clients: int,
    *,
    range: float,
    weight_cap: float,
    metrics: Mapping[str, float],
) -> RingGrid:
    """Return the grid of a secure round over so many invited clients."""
    names = tuple(sorted(metrics.items()))
    return RingGrid(range, weight_cap, bits_of(terms, clients), terms.modulus_bits, names)


def split(clients: Sequence[ClientId], terms: Secure, key: Key) -> tuple[tuple[ClientId, ...], ...]:
    """Return the groups of a cohort, drawn at random.

    Args:
        clients: The cohort.
        terms: The number of groups.
        key: Key of (run, "groups", round, attempt).
    """
    if terms.groups == 1:
        return (tuple(clients),)
    order = key.rng().permutation(len(clients))
    groups, at = [], 0
    for size in sizes_of(terms, len(clients)):
        groups.append(tuple(clients[i] for i in sorted(order[at : at + size])))
        at += size
    return tuple(groups)


def extras_of(metrics: Sized) -> int:
    """Return the secret elements after the model's: the weight, and two for each metric."""
    return 1 + 2 * len(metrics)


def corrupt_of(terms: Secure, clients: int) -> int:
    """Return how many of a cohort may leave out their noise, as the sum's own promise has it.

    On the complete graph against an active coordinator that is a third.

    >>> corrupt_of(Secure(), 10), corrupt_of(Secure(suite="semi_honest"), 10)
    (3, 1)
    """
    told = math.ceil(round(terms.corrupt * clients, 9))
    active = clients <= MAX_FULL and terms.suite != Suite.SEMI_HONEST
    return max(told, clients // 3) if active else told


def ring_encoding(grid: RingGrid, size: int, privacy: Protection | None = None) -> RingEncoding:
    """Return the encoding that the signed context names, for a model of so many elements.

    With noise at the clients the vector is rotated, so it is padded, and holds nothing else: every
    weight is 1. That its sum does not wrap around follows from the terms of the noise.
    """
    noised = privacy is not None and not privacy.central
    size = padded(size) if noised else size
    return RingEncoding(
        size=size if noised else size + extras_of(grid.metrics),
        modulus_bits=grid.modulus_bits,
        bits=grid.bits,
        clip=grid.range,
        noise_headroom=0,
        generator=int(Generator.AES_256_CTR),
        weight_at=size,
    )


def context_of(
    plan: Plan,
    encoding: RingEncoding,
    clients: int,
    *,
    terms: Secure,
    authority: bytes,
    deadline: int,
) -> Context:
    """Return what the parties of one sum sign.

    Args:
        plan: The round's terms.
        encoding: From `ring_encoding`.
        clients: Invited clients of this sum.
        terms: The plan's secure aggregation.
        authority: Digest of the enrolment authority's key.
        deadline: Seconds since 1970.
    """
    return Context(
        version=VERSION,
        run_id=plan.run_id,
        round=plan.round,
        attempt=plan.attempt,
        models=(bytes.fromhex(plan.model_sha256),),
        plan=bytes.fromhex(plan.digest),
        encoding=encoding,
        min_cohort=max(
            min_cohort_of(terms, clients), 0 if plan.privacy is None else plan.privacy.survivors
        ),
        parameters=parameters_of(terms, clients),
        authority=authority,
        deadline=deadline,
    )
