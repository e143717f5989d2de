"""A client's checks of what the server says at R2, R4 and the end."""

from __future__ import annotations

from choral.core.errors import Refused
from choral.crypto.merkle import verify_inclusion
from choral.secagg import statements
from choral.secagg.context import Context
from choral.secagg.messages import Consents, Delivery, Result, Survivors
from choral.secagg.refusals import Breach, Reason, check
from choral.secagg.roster import View


def check_delivery(context: Context, view: View, m: Delivery, *, public: bytes) -> None:
    """Check that a dealer signed the hashes of the shares that are delivered.

    The place of the receiver among the dealer's holders is the dealer's closed neighbourhood's;
    on the complete graph it is the receiver's own index, elsewhere it is looked up by the server
    and proved by the root: a share's hash names dealer and holder, so another leaf does not fit.

    Raises:
        Breach: The signature or the proof is wrong.
    """
    statements.check_signature(
        context.signed,
        public,
        statements.shares(view.h1, m),
        m.signature,
        reason=Reason.BAD_SIGNATURE,
        about=m.dealer,
    )
    leaf = statements.hash_leaf(m.hashes)
    try:
        verify_inclusion(leaf, index=m.place, size=len(view.holders), proof=m.proof, root=m.root)
    except Refused as error:
        raise Breach(Reason.BAD_PROOF, error.message, about=m.dealer) from None


def check_consents(
    context: Context, view: View, m: Consents, survivors: Survivors, alive: frozenset[str]
) -> None:
    """Check that enough of the closed neighbourhood signed the survivors that this client signed.

    On the complete graph the closed neighbourhood is the cohort. Elsewhere consents from outside
    it are refused: t colluders anywhere could sign anything.

    Raises:
        Breach: Too few, one twice, one of an outsider, or a bad signature.
    """
    names = [c.client for c in m.consents]
    outsiders = set(names) - alive
    check(not outsiders, Reason.FOREIGN_CONSENT, f"{len(outsiders)} of no surviving neighbour")
    check(len(set(names)) == len(names), Reason.REPEATED_ID, "a consent is there twice")
    t = context.parameters.t
    check(len(names) >= t, Reason.TOO_FEW_CONSENTS, f"{len(names)} consents, threshold {t}")
    what = statements.survivors(view.h1, count=survivors.count, root=survivors.root)
    peers = view.by_id
    for consent in m.consents:
        statements.check_signature(
            True,
            peers[consent.client].verify_key,
            what,
            consent.signature,
            reason=Reason.BAD_SIGNATURE,
            about=consent.client,
        )


def check_result(
    context: Context, m: Result, *, h1: bytes, survivors: Survivors, server: bytes
) -> None:
    """Check that the result is signed and is the sum over the survivors this client agreed to.

    Raises:
        Breach: It is not.
    """
    statements.check_signature(
        context.signed,
        server,
        statements.result(m),
        m.signature,
        reason=Reason.BAD_SERVER_SIGNATURE,
    )
    mine = (h1, survivors.root, survivors.count)
    check((m.h1, m.root, m.count) == mine, Reason.NOT_COUNTED, "the result is of another sum")
