"""From a connection to who calls."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from choral.coordinator.access import Caller
from choral.core.errors import CertificateError, Refused, Unavailable
from choral.core.ports import Clock
from choral.pki.credentials import ServerCredentials
from choral.pki.identity import Identity, admit
from choral.pki.names import Role, party_id
from choral.wire import names
from choral.wire.rpc import Context


class Callers(Protocol):
    """Says who calls."""

    def __call__(self, context: Context) -> Caller:
        """Return the caller of a connection.

        Raises:
            Refused: It is nobody.
        """
        ...


def by_certificate(
    credentials: Callable[[], ServerCredentials],
    clock: Clock,
    *,
    admitted: Callable[[Identity], None] = lambda _: None,
) -> Callers:
    """Return what reads the caller from the certificate that TLS has checked.

    Args:
        credentials: The coordinator's own, with the newest list of the revoked.
        clock: For dates.
        admitted: Told of everyone who comes in, at every call.
    """

    def read(context: Context) -> Caller:
        certificates = tuple(context.auth_context().get("x509_pem_cert", ()))
        if len(certificates) != 1:
            raise Refused(
                "no certificate", hint="every caller needs one of the federation's authority"
            )
        try:
            ours = credentials()
        except CertificateError as error:  # its files are being replaced: nobody comes in
            raise Unavailable(f"the coordinator's own certificates: {error.message}") from None
        who = admit(
            bytes(certificates[0]),
            federation=ours.federation,
            revoked=ours.revoked,
            at=datetime.fromtimestamp(clock.wall(), UTC),
        )
        admitted(who)
        return Caller(who.id, who.role)

    return read


def by_word(context: Context) -> Caller:
    """Return what a caller on a connection without TLS says of itself.

    Only for a loopback address, where whoever can connect is on this machine already.
    """
    said = dict(context.invocation_metadata() or ())
    role = said.get(names.ROLE, Role.CLIENT.value)
    name = said.get(names.CLIENT_ID, "")
    name = name if isinstance(name, str) else ""
    if role not in set(Role) - {Role.COORDINATOR}:
        raise Refused(f"no role {str(role)[:40]!r}")
    return Caller(party_id(name), Role(role), verified=False)
