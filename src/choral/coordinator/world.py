"""What is outside a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from choral.coordinator.desk import Desk
from choral.coordinator.leftovers import Upload
from choral.coordinator.uploads import Kept
from choral.core.params import Params
from choral.core.ports import Clock, Rand
from choral.core.release import Released
from choral.crypto.signatures import SigningKey


@dataclass(frozen=True, slots=True)
class Keys:
    """What a coordinator signs with and whom it believes.

    Attributes:
        signing: Signs messages of secure aggregation, and receipts.
        authority: Verification key of the enrolment authority.
    """

    signing: SigningKey
    authority: bytes


@dataclass(frozen=True, slots=True)
class World:
    """What is outside a run.

    Attributes:
        desk: Its clients.
        clock: Time.
        rand: Secret randomness.
        keys: The coordinator's.
        publish: Makes a released model ready to be downloaded; returns the bytes of its file.
        kept: Whole uploads.
        pause: Waits so many seconds.
        audit_head: Head of the audit trail on disk; empty where there is none.
        left: From a token to what came of its upload before a restart.
    """

    desk: Desk
    clock: Clock
    rand: Rand
    keys: Keys
    publish: Callable[[Released[Params]], int]
    kept: Kept
    pause: Callable[[float], None]
    audit_head: Callable[[], bytes] = bytes
    left: Callable[[bytes], Upload | None] = lambda _: None
