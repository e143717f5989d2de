"""Enrolment on first use, for a loopback address without certificates: nobody's identity is proved.

A federation with certificates has an authority that is not the coordinator's operator. Without
them the coordinator enrols whoever comes, which protects from its mistakes and not from itself; the
result of such a run says so.
"""

from __future__ import annotations

from choral.coordinator.access import Caller
from choral.core.errors import Refused
from choral.crypto.signatures import VERIFY_KEY_SIZE, SigningKey, check_verify_key
from choral.secagg.enrolment import Authority
from choral.wire import names
from choral.wire.rpc import Context


class Welcome:
    """Enrols a client's signing key when it first calls.

    Args:
        authority: Signs enrolments.
        server: The coordinator's verification key.
    """

    def __init__(self, authority: SigningKey, server: bytes) -> None:
        self._authority = Authority(authority)
        self._server = server
        self._keys: dict[str, bytes] = {}

    @property
    def public(self) -> bytes:
        """The authority's verification key."""
        return self._authority.public

    async def greet(self, caller: Caller, context: Context) -> None:
        """Answer a client's key with its enrolment; do nothing where it sends none.

        Raises:
            Refused: It is no key, or another than the one that this client came with first.
        """
        said = dict(context.invocation_metadata() or ())
        key = said.get(names.SIGNING_KEY)
        if key is None:
            return
        if not isinstance(key, bytes) or len(key) != VERIFY_KEY_SIZE:
            raise Refused(f"{names.SIGNING_KEY}: expected {VERIFY_KEY_SIZE} bytes")
        check_verify_key(key)
        if self._keys.setdefault(caller.id, key) != key:
            raise Refused(
                f"{caller.id!r} came with another signing key before",
                hint="keep its state folder, or start the coordinator anew",
            )
        await context.send_initial_metadata(
            (
                (names.ENROLMENT, self._authority.enrol(caller.id, key)),
                (names.AUTHORITY, self._authority.public),
                (names.SERVER_KEY, self._server),
            )
        )
