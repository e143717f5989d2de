"""Which versions of the protocol are spoken here: the present one, and the one before."""

from __future__ import annotations

from typing import Final

from choral.core.errors import Malformed, VersionMismatch

PROTOCOL_VERSION: Final = 1
OLDEST_VERSION: Final = max(1, PROTOCOL_VERSION - 1)
SPOKEN: Final = (OLDEST_VERSION, PROTOCOL_VERSION)


def agree(client_min: int, client_max: int, *, ours: tuple[int, int] = SPOKEN) -> int:
    """Return the newest version that a client and the coordinator both speak.

    Args:
        client_min: The oldest version that the client speaks, from 1.
        client_max: The newest.
        ours: The same of the coordinator.

    Raises:
        Malformed: The client's versions are no range.
        VersionMismatch: They have none in common; the message names both ranges.

    >>> agree(1, 7, ours=(2, 3))
    3
    >>> agree(1, 1, ours=(2, 3))
    Traceback (most recent call last):
    choral.core.errors.VersionMismatch: the client speaks version 1 of the protocol, the \
coordinator 2 to 3 (upgrade the client)
    """
    if not 1 <= client_min <= client_max:
        raise Malformed(f"protocol versions {client_min} to {client_max}: expected a range from 1")
    oldest, newest = ours
    common = min(client_max, newest)
    if common < max(client_min, oldest):
        older = "client" if client_max < oldest else "coordinator"
        raise VersionMismatch(
            f"the client speaks version {_shown(client_min, client_max)} of the protocol, the "
            f"coordinator {_shown(oldest, newest)}",
            hint=f"upgrade the {older}",
        )
    return common


def check_version(version: int, *, ours: tuple[int, int] = SPOKEN) -> None:
    """Refuse a message of a version that is not spoken here.

    Raises:
        VersionMismatch: The message names the version and ours.
    """
    if not ours[0] <= version <= ours[1]:
        raise VersionMismatch(
            f"a message of version {version} of the protocol, expected {_shown(*ours)}",
            hint="upgrade the older side",
        )


def _shown(oldest: int, newest: int) -> str:
    return f"{oldest}" if oldest == newest else f"{oldest} to {newest}"
