"""A released value that no ledger made."""

from choral.core.release import Private, Released, ReleaseEvent

event = ReleaseEvent("model", 1, 1, "none")
by_hand = Released(1, event)  # expect: call-arg
without_record = Released(1, gate=None)  # expect: call-arg


class Peek(Private[int]):  # expect: misc
    """Subclasses could look inside."""


class Forged(Released[int]):  # expect: misc
    """Subclasses could leave the gate out."""
