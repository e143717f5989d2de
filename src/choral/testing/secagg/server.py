"""A scripted malicious server: everything that it tries, as one table."""

from __future__ import annotations

from typing import Final

from choral.testing.secagg.attack import Attack
from choral.testing.secagg.attempts import ATTEMPTS
from choral.testing.secagg.deliveries import DELIVERIES
from choral.testing.secagg.invitations import INVITATIONS
from choral.testing.secagg.rosters import ROSTERS
from choral.testing.secagg.unmasking import UNMASKING

ATTACKS: Final[tuple[Attack, ...]] = (
    *INVITATIONS,
    *ROSTERS,
    *DELIVERIES,
    *UNMASKING,
    *ATTEMPTS,
)
"""Every attack of a server, in the order of the steps. A new attack enters one of the five tables
and with it every test and every report."""
