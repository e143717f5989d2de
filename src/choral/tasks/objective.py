"""The local objective on flat vectors: gradient + mu * (w - anchor) + drift."""

from __future__ import annotations

from dataclasses import dataclass

from choral.core.errors import WrongShape
from choral.core.params import Array
from choral.core.plan import Objective


@dataclass(frozen=True, slots=True)
class Pull:
    """What a round's objective adds to a gradient; all vectors cover the shared tensors.

    Attributes:
        mu: Pull towards the anchor.
        anchor: Where it pulls to, or None where `mu` is 0.
        drift: Added as it is, or None.
    """

    mu: float
    anchor: Array | None
    drift: Array | None

    @staticmethod
    def of(objective: Objective, received: Array) -> Pull:
        """Return the pull of a plan's objective; an absent anchor is the received model.

        Raises:
            WrongShape: The anchor or the drift has another length than `received`.
        """
        check_objective(objective, len(received))
        anchor = objective.anchor
        if objective.mu and anchor is None:
            anchor = received
        return Pull(objective.mu, anchor if objective.mu else None, objective.drift)

    def add_to(self, gradient: Array, at: Array) -> None:
        """Add the pull at the point `at` to `gradient`, in place."""
        if self.anchor is not None:
            gradient += self.mu * (at - self.anchor)
        if self.drift is not None:
            gradient += self.drift


def check_objective(objective: Objective, size: int) -> None:
    """Raise `WrongShape` unless the objective's vectors have `size` elements."""
    for name in ("anchor", "drift"):
        vector = getattr(objective, name)
        if vector is not None and vector.shape != (size,):
            raise WrongShape(f"{name} of shape {list(vector.shape)}, expected [{size}]")
