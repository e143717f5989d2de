"""From the sums of an attempt's groups to one total, or to the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from choral.core.aggregation import RingGrid, Secure
from choral.core.errors import OutOfRange, PlanError, Refused, RunFailed
from choral.core.exact import Total
from choral.core.params import ClientId, Spec
from choral.core.plan import Plan
from choral.crypto.ring import RingVector
from choral.federation.compose import rule_of
from choral.federation.noised import decode_noised
from choral.federation.ring import decode_ring
from choral.federation.secure import groups_needed
from choral.federation.sums import Closed, Unreached


@dataclass(frozen=True, slots=True)
class Unmasked:
    """A group's sum, once nobody's mask is on it.

    Attributes:
        total: Sum of the survivors' vectors.
        survivors: Whose.
    """

    total: RingVector
    survivors: tuple[str, ...]


Group = Unmasked | Unreached | None
"""How a group's sum ended; None for one that goes on."""


def hopeless(groups: Sequence[Group], terms: Secure) -> Unreached | None:
    """Return why a round can no longer close, if so: too many of its groups have no sum."""
    failed = [group for group in groups if isinstance(group, Unreached)]
    return failed[0] if len(failed) > len(groups) - groups_needed(terms) else None


def close(
    groups: Sequence[Group], accepted: Sequence[ClientId], *, plan: Plan, spec: Spec, terms: Secure
) -> Closed | Unreached:
    """Decode the groups' sums and make one total of them.

    A sum that says what no client may send counts as none.

    Args:
        groups: How each group ended.
        accepted: Clients whose vectors were taken.
        plan: The round's terms.
        spec: The model's schema.
        terms: The plan's secure aggregation.
    """
    decoded = [_decoded(group, plan, spec) for group in groups]
    ended = [d if isinstance(d, Unreached) else g for d, g in zip(decoded, groups, strict=True)]
    lost = hopeless(ended, terms)
    if lost is not None:
        return lost
    try:
        total = combine([d for d in decoded if isinstance(d, Total)], terms)
    except PlanError as error:
        return Unreached(error.message)
    summed = {c for group in ended if isinstance(group, Unmasked) for c in group.survivors}
    return Closed(total, tuple(c for c in accepted if c not in summed))


def _decoded(group: Group, plan: Plan, spec: Spec) -> Total | Unreached:
    """Return what a group's sum says."""
    if not isinstance(plan.encoding, RingGrid):
        raise RunFailed("a secure sum of a plan without a ring")
    if not isinstance(group, Unmasked):
        return group or Unreached("a group has not ended")
    count = len(group.survivors)
    try:
        if plan.privacy is not None:
            return decode_noised(group.total, spec, plan=plan, count=count)
        return decode_ring(group.total, spec, plan=plan, grid=plan.encoding, count=count)
    except (OutOfRange, Refused) as error:
        return Unreached(error.message)


def combine(totals: Sequence[Total], terms: Secure) -> Total:
    """Return one total of the groups' totals: by the rule for the model, pooled for the rest."""
    if terms.groups == 1:
        return totals[0]
    rule = rule_of(terms)
    weights = np.array([t.weight for t in totals])
    mean = rule(np.stack([t.mean for t in totals]), weights)
    names = sorted({name for t in totals for name in t.metrics})
    return Total(
        mean,
        float(weights.sum()),
        sum(t.count for t in totals),
        {name: _pooled(totals, name) for name in names},
    )


def _pooled(totals: Sequence[Total], name: str) -> float:
    """Return the weighted mean of a metric over the groups that have it."""
    pairs = [(t.metrics[name], t.weight) for t in totals if name in t.metrics]
    weight = sum(w for _, w in pairs)
    return sum(value * w for value, w in pairs) / weight if weight else 0.0
