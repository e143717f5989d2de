"""When a round may open: a pure decision over what is known now."""

from __future__ import annotations

import math
from dataclasses import dataclass

from choral.core.checks import flag, real, whole


@dataclass(frozen=True, slots=True)
class Trigger:
    """What must be so before a round opens.

    Attributes:
        wait_s: Seconds after which a quorum is enough, counted from when it was there.
        settle_s: Seconds without a new client after which a run without a number of clients takes
            those who are there.
        examples: Training examples that the available clients must have together, at least 0.
        every_s: Seconds from the opening of one round to that of the next, at least 0.
        manual: Each round waits until an operator opens it.
    """

    wait_s: float = 10.0
    settle_s: float = 5.0
    examples: int = 0
    every_s: float = 0.0
    manual: bool = False

    def __post_init__(self) -> None:
        for name in ("wait_s", "settle_s", "every_s"):
            object.__setattr__(self, name, real(f"start.{name}", getattr(self, name), least=0))
        whole("start.examples", self.examples, least=0)
        flag("start.manual", self.manual)


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known when somebody asks whether a round may open.

    Attributes:
        available: Suitable clients now.
        wanted: Clients that a round invites.
        quorum: Fewest with which it can close.
        examples: Training examples of the available ones, at most.
        enough_s: Seconds since as many as the quorum are there; None while they are not.
        opened_s: Seconds since the last round opened; infinite before the first.
        asked: Whether an operator opened it.
    """

    available: int
    wanted: int
    quorum: int
    examples: int
    enough_s: float | None
    opened_s: float = math.inf
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a round may open.

    Attributes:
        open: It may.
        reason: What it waits for; empty where it may.
        again_s: Seconds after which time alone may change the answer; None where it will not.
    """

    open: bool
    reason: str = ""
    again_s: float | None = None


def may_open(trigger: Trigger, scene: Scene) -> Verdict:
    """Decide whether a round may open.

    >>> may_open(Trigger(), Scene(2, 4, 3, 0, None)).reason
    'waiting for clients: 2 of 4 are there'
    >>> may_open(Trigger(wait_s=10), Scene(3, 4, 3, 0, 4.0)).again_s
    6.0
    >>> may_open(Trigger(), Scene(4, 4, 3, 0, 0.0)).open
    True
    """
    if trigger.manual and not scene.asked:
        return Verdict(False, "waiting for an operator to open the round")
    rest = trigger.every_s - scene.opened_s
    if rest > 0:
        return Verdict(False, f"the next round opens in {rest:.0f} s", rest)
    if scene.enough_s is None:
        return Verdict(False, f"waiting for clients: {scene.available} of {scene.wanted} are there")
    if scene.examples < trigger.examples:
        return Verdict(
            False, f"waiting for data: at most {scene.examples} of {trigger.examples} examples"
        )
    rest = trigger.wait_s - scene.enough_s
    if scene.available < scene.wanted and rest > 0:
        return Verdict(
            False,
            f"{scene.available} of {scene.wanted} clients are there, enough for a quorum; "
            f"waiting {rest:.0f} s for the others",
            rest,
        )
    return Verdict(True)
