"""R2: shares that the dealers did not make, and a second vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from choral.secagg import messages as msg
from choral.secagg.refusals import Reason
from choral.testing.secagg.attack import VICTIM, Attack, Ending, Play, alter, beside
from choral.testing.secagg.network import Network


def _first(m: msg.Deliveries, **changes: Any) -> msg.Deliveries:
    return replace(m, deliveries=(replace(m.deliveries[0], **changes), *m.deliveries[1:]))


def _deliveries(change: Callable[[msg.Deliveries], Any]) -> Play:
    return alter(msg.Deliveries, lambda _, m: change(m))


def _flipped(m: msg.Deliveries) -> msg.Deliveries:
    sealed = m.deliveries[0].sealed
    return _first(m, sealed=bytes([sealed[0] ^ 1]) + sealed[1:])


def _exchanged(m: msg.Deliveries) -> msg.Deliveries:
    a, b, *rest = m.deliveries
    return replace(m, deliveries=(replace(a, sealed=b.sealed), replace(b, sealed=a.sealed), *rest))


def _fewer(net: Network) -> msg.Deliveries:
    first = net.told[VICTIM][msg.Deliveries]
    return msg.Deliveries(first.deliveries[:-1])


def _old_shares(net: Network) -> None:
    """Abort one attempt after the shares came, then deliver them again in the next."""
    net.drop({"c001": 2, "c002": 2}).run()
    old = net.told[VICTIM][msg.Deliveries]
    net.drop({}).begin(attempt=2)
    alter(msg.Deliveries, lambda *_: old)(net)


DELIVERIES: Final = (
    Attack(
        "one dealer",
        "delivers the shares of fewer dealers than t",
        _deliveries(lambda m: replace(m, deliveries=m.deliveries[:1])),
        (Reason.TOO_FEW_SHARES,),
    ),
    Attack(
        "one dealer for three",
        "delivers one dealer's shares three times",
        _deliveries(lambda m: replace(m, deliveries=m.deliveries[:1] * 3)),
        (Reason.NOT_A_NEIGHBOUR,),
    ),
    Attack(
        "strange dealer",
        "delivers shares in the name of a stranger",
        _deliveries(lambda m: _first(m, dealer="stranger")),
        (Reason.NOT_A_NEIGHBOUR,),
    ),
    Attack(
        "victim as dealer",
        "delivers shares in the victim's own name",
        _deliveries(lambda m: _first(m, dealer=VICTIM)),
        (Reason.NOT_A_NEIGHBOUR,),
    ),
    Attack(
        "other commitment",
        "changes a dealer's commitment",
        _deliveries(lambda m: _first(m, commitment=bytes(32))),
        (Reason.BAD_SIGNATURE,),
    ),
    Attack(
        "forged dealer",
        "delivers shares under a signature that does not fit",
        _deliveries(lambda m: _first(m, signature=bytes(64))),
        (Reason.BAD_SIGNATURE,),
    ),
    Attack(
        "hashes without proof",
        "leaves out the proof of the hashes",
        _deliveries(lambda m: _first(m, proof=())),
        (Reason.BAD_PROOF,),
    ),
    Attack(
        "other place",
        "says that the victim stands elsewhere among the holders",
        _deliveries(lambda m: _first(m, place=1)),
        (Reason.BAD_PROOF,),
    ),
    Attack(
        "hashes of another",
        "delivers one dealer's hashes as another's",
        _deliveries(lambda m: _first(m, hashes=m.deliveries[1].hashes)),
        (Reason.BAD_PROOF,),
    ),
    Attack(
        "changed ciphertext",
        "flips a bit of a sealed share",
        _deliveries(_flipped),
        (Reason.BAD_TAG,),
        Ending.REPORTS,
    ),
    Attack(
        "exchanged ciphertexts",
        "delivers two sealed shares in each other's place",
        _deliveries(_exchanged),
        (Reason.BAD_TAG,),
        Ending.REPORTS,
    ),
    Attack(
        "truncated ciphertext",
        "cuts a byte off a sealed share",
        _deliveries(lambda m: msg.encode(_first(m, sealed=m.deliveries[0].sealed[:-1]))),
        (Reason.MALFORMED,),
    ),
    Attack(
        "garbage",
        "sends bytes that are no message",
        _deliveries(lambda _: b"\x01\x00garbage"),
        (Reason.MALFORMED,),
    ),
    Attack(
        "other dealers afterwards",
        "asks for a second vector, masked with fewer neighbours",
        beside(msg.Survivors, _fewer),
        (Reason.SECOND_VECTOR,),
    ),
    Attack(
        "shares of an earlier attempt",
        "delivers the shares of the attempt before",
        _old_shares,
        (Reason.BAD_SIGNATURE,),
    ),
)
"""Attacks on R2."""
