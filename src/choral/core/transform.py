"""Transforms and reducers, and the check that they compose before anyone is invited.

A transform changes updates at the client (`encode`) and undoes what can be undone on the sum at the
coordinator (`decode`). It declares whether it works on sums, what it does to the sensitivity of the
sum to one client, and which privacy event it is. A reducer says how updates become one.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from choral.core.errors import PlanError
from choral.core.exact import Total
from choral.core.keys import Key
from choral.core.params import Spec
from choral.core.plan import Plan
from choral.core.update import Update


class Kind(enum.StrEnum):
    """What a rule must see."""

    SUM = "sum"
    """Only the sum of all updates: works under secure aggregation."""
    EACH = "each"
    """Every single update: impossible under secure aggregation."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What a transform promises about itself.

    Attributes:
        needs: `SUM` where the decoded sum of encoded updates is meaningful, else `EACH`.
        bounds: L2 norm that it bounds each update by, or None where it bounds nothing.
        keeps_bound: False where it can enlarge the norm of an update that was bounded before.
        noise: True where it adds noise, which asks for a bound before it.
    """

    needs: Kind = Kind.SUM
    bounds: float | None = None
    keeps_bound: bool = True
    noise: bool = False


class Transform(Protocol):
    """One step between a task's update and the sum."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def declared(self) -> Declared:
        """What it promises."""
        ...

    def encode(self, update: Update, spec: Spec, plan: Plan, key: Key) -> Update:
        """Return the update as the client sends it on."""
        ...

    def decode(self, total: Total, spec: Spec, plan: Plan) -> Total:
        """Return the sum as the coordinator goes on with it."""
        ...


class Reducer(Protocol):
    """How updates become one."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def kind(self) -> Kind:
        """Whether it needs the sum or every update."""
        ...


@dataclass(frozen=True, slots=True)
class WeightedMean:
    """The reducer of plain and of secure rounds: the weighted mean, from an exact sum."""

    name: str = "mean"
    kind: Kind = Kind.SUM


@dataclass(frozen=True, slots=True)
class Chain:
    """Transforms in the order in which the client applies them; `check_chain` has passed."""

    transforms: tuple[Transform, ...] = ()

    def encode(self, update: Update, spec: Spec, plan: Plan, key: Key) -> Update:
        """Apply every transform; each gets a key of its own, named after it and its place."""
        for index, transform in enumerate(self.transforms):
            update = transform.encode(update, spec, plan, key.fold(index, transform.name))
        return update

    def decode(self, total: Total, spec: Spec, plan: Plan) -> Total:
        """Undo every transform, last first."""
        for transform in reversed(self.transforms):
            total = transform.decode(total, spec, plan)
        return total


def check_chain(transforms: Sequence[Transform], reducer: Reducer, aggregation: str) -> Chain:
    """Return the transforms as a chain, or say why they cannot be one.

    Args:
        transforms: In the order in which a client applies them.
        reducer: How the updates become one.
        aggregation: Kind of sum: `plain`, `secure` or `robust`.

    Raises:
        PlanError: A rule that needs every update where only the sum is seen, noise without a
            bound before it, or a bound that a later transform breaks before the noise.
    """
    if aggregation not in ("plain", "secure", "robust"):
        raise PlanError(f"unknown aggregation `{aggregation}`", hint="known: plain, robust, secure")
    if aggregation == "secure" and reducer.kind is Kind.EACH:
        raise PlanError(
            f"`{reducer.name}` needs every client's update, and secure aggregation shows only the "
            "sum",
            hint="use the mean, or aggregate in groups",
        )
    sums_only = aggregation == "secure" or reducer.kind is Kind.SUM
    bound: float | None = None
    for transform in transforms:
        declared = transform.declared
        if sums_only and declared.needs is Kind.EACH:
            raise PlanError(
                f"`{transform.name}` needs every client's update, and `{reducer.name}` works on "
                "the sum",
                hint=f"remove `{transform.name}`, or use plain aggregation with a rule that reads "
                "every update",
            )
        if declared.bounds is not None and not 0 < declared.bounds < math.inf:
            raise PlanError(f"`{transform.name}` bounds updates by {declared.bounds}")
        if declared.noise and bound is None and declared.bounds is None:
            raise PlanError(
                f"`{transform.name}` adds noise, but nothing bounds an update before it",
                hint="put a clip before the noise",
            )
        if declared.bounds is not None:
            bound = declared.bounds
        elif not declared.keeps_bound:
            bound = None
    return Chain(tuple(transforms))
