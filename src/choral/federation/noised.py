"""An update with the client's own noise as elements of the ring, and what a sum of them says.

The vector is the update alone, clipped, rotated, rounded and noised. Neither weights nor metrics
are beside it: each would be a release of its own.
"""

from __future__ import annotations

import numpy as np

from choral.core.errors import PlanError
from choral.core.exact import Total
from choral.core.keys import Key
from choral.core.params import Spec
from choral.core.plan import Plan
from choral.core.ports import Rand
from choral.core.update import Update
from choral.crypto.ring import RingVector
from choral.crypto.secret import Secret
from choral.federation.protection import distributed_of, rotation_of
from choral.federation.ring import RingContribution
from choral.privacy import distributed


def encode_noised(
    update: Update, spec: Spec, *, plan: Plan, key: Key, rand: Rand | None
) -> RingContribution:
    """Return an update in the ring, with the client's noise in it.

    Args:
        update: A clipped update of weight 1.
        spec: The model's schema.
        plan: The round's terms.
        key: Rounding key of (run, round, client).
        rand: Secret randomness; its noise is never drawn twice, so what is sent again must be kept.

    Raises:
        PlanError: There is no secret randomness, or the plan's terms make up no noise.
    """
    if rand is None:
        raise PlanError("a client's noise needs secret randomness")
    terms = distributed_of(plan, spec.vector_size)
    vector = distributed.encode(
        update.delta,
        terms,
        rotation=rotation_of(plan),
        rounding=key.fold(plan.attempt),
        seed=Secret.random(rand),
    )
    return RingContribution(vector)


def decode_noised(total: RingVector, spec: Spec, *, plan: Plan, count: int) -> Total:
    """Return the mean of the updates, with the noise of all survivors in it.

    Args:
        total: The sum in the ring.
        spec: The model's schema.
        plan: The round's terms.
        count: Survivors.

    Raises:
        Refused: They are too few for the noise: nothing is decoded.
    """
    terms = distributed_of(plan, spec.vector_size)
    values = distributed.decode(total, terms, rotation=rotation_of(plan), survivors=count)
    return Total((values / count).astype(np.float32), float(count), count, {})
