"""Who may do what: one table and one function, and no for everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from choral.core.errors import Refused
from choral.pki.names import Role

_EVERY: Final = "every"
_OWN: Final = "own"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as the connection shows it.

    Attributes:
        id: Its name.
        role: What it may do.
        verified: Whether a certificate says so; without one the name is its own word.
    """

    id: str
    role: Role
    verified: bool = True


RULES: Final[Mapping[str, Mapping[Role, str]]] = MappingProxyType(
    {
        **{
            name: MappingProxyType({Role.CLIENT: _OWN})
            for name in (
                "JoinRound",
                "GetGlobalModel",
                "Exchange",
                "SendUpdate",
                "GetUpload",
                "ReportFailure",
                "ReportEvaluation",
            )
        },
        "CreateRun": MappingProxyType({Role.OPERATOR: _EVERY, Role.RESEARCHER: _OWN}),
        "ListRuns": MappingProxyType(
            {Role.OPERATOR: _EVERY, Role.RESEARCHER: _OWN, Role.AUDITOR: _EVERY}
        ),
        "GetRun": MappingProxyType(
            {Role.OPERATOR: _EVERY, Role.RESEARCHER: _OWN, Role.AUDITOR: _EVERY}
        ),
        "WatchRun": MappingProxyType(
            {Role.OPERATOR: _EVERY, Role.RESEARCHER: _OWN, Role.AUDITOR: _EVERY}
        ),
        "StopRun": MappingProxyType({Role.OPERATOR: _EVERY, Role.RESEARCHER: _OWN}),
        "OpenRound": MappingProxyType({Role.OPERATOR: _EVERY, Role.RESEARCHER: _OWN}),
        "ListClients": MappingProxyType({Role.OPERATOR: _EVERY, Role.AUDITOR: _EVERY}),
    }
)
"""Call to role to whose objects: its own, or everybody's. What is absent is refused."""


def check(call: str, caller: Caller) -> None:
    """Refuse a call that the caller's role never makes.

    Raises:
        Refused: The call is not for this role.
    """
    if caller.role not in RULES.get(call, {}):
        raise Refused(
            f"`{caller.id}` has the role {caller.role}, and {call} is not for it",
            hint="roles come from certificates: `choral pki sign --role …`",
        )


def may_touch(call: str, caller: Caller, owner: str) -> bool:
    """Return whether a caller may do this with an object of `owner`'s."""
    reach = RULES.get(call, {}).get(caller.role)
    return reach == _EVERY or (reach == _OWN and caller.id == owner)


def check_owner(call: str, caller: Caller, owner: str, *, what: str) -> None:
    """Refuse a call on somebody else's object, in the words for one that is not there.

    Raises:
        Refused: It is not the caller's.
    """
    check(call, caller)
    if not may_touch(call, caller, owner):
        raise Refused(f"no {what} of yours")
