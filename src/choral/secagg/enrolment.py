"""Who may take part: an authority signs that a verification key belongs to a client id."""

from __future__ import annotations

from choral.crypto.encoding import digest
from choral.crypto.signatures import SigningKey
from choral.secagg import statements
from choral.secagg.refusals import Reason


def authority_id(public: bytes) -> bytes:
    """Return the 32 bytes that stand for an authority in the context."""
    return digest("choral enrolment authority v1", public)


class Authority:
    """An enrolment authority in memory, for simulation and tests.

    Args:
        key: Its key pair.
    """

    __slots__ = ("_key",)

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    @property
    def public(self) -> bytes:
        """Its verification key, which every site must have from elsewhere than the server."""
        return self._key.public

    def enrol(self, client: str, verify_key: bytes) -> bytes:
        """Return the signature that binds a key to a client."""
        return self._key.sign(statements.enrolment(client, verify_key))


def check_enrolled(authority: bytes, *, client: str, verify_key: bytes, enrolment: bytes) -> None:
    """Check that the authority enrolled this key for this client.

    Raises:
        Breach: `NOT_ENROLLED`.
    """
    what = statements.enrolment(client, verify_key)
    check = statements.check_signature
    check(True, authority, what, enrolment, reason=Reason.NOT_ENROLLED, about=client)
