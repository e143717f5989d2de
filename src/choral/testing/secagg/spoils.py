"""What somebody can compute from what it saw, and from what colluding clients tell it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from choral.core.ports import Rand
from choral.crypto.agreement import AgreementKey
from choral.crypto.ring import RingVector
from choral.crypto.secret import Secret
from choral.secagg import messages as msg
from choral.secagg.masking import Accumulator, Signed, pair_mask, self_mask
from choral.secagg.messages import Kind
from choral.secagg.shares import Good, recover, unseal
from choral.testing.fakes import SeededRand
from choral.testing.secagg.network import Network
from choral.testing.secagg.parties import ClientFactory


class OpenRand:
    """Randomness of a client that colludes: it remembers what it gave.

    Choral's client draws its transport key, its mask key and its seed first, in this order.

    Args:
        rand: Where the bytes come from.

    Attributes:
        tokens: What was drawn.
    """

    def __init__(self, rand: Rand) -> None:
        self.tokens: list[bytes] = []
        self._rand = rand

    def token(self, size: int) -> bytes:
        """Return bytes and remember them."""
        self.tokens.append(self._rand.token(size))
        return self.tokens[-1]

    @property
    def transport(self) -> AgreementKey:
        """The client's transport key."""
        return AgreementKey(Secret(self.tokens[0]))

    @property
    def mask(self) -> AgreementKey:
        """The client's mask key."""
        return AgreementKey(Secret(self.tokens[1]))


def collude(net: Network, name: str, *, make: ClientFactory | None = None) -> OpenRand:
    """Let a client that has not heard of the attempt tell its secrets."""
    rand = OpenRand(SeededRand(int.from_bytes(name.encode(), "little")))
    net.rands[name] = rand
    net.clients[name] = net.client(name, make=make)
    return rand


def opened(
    bundle: msg.Bundle, *, roster: Sequence[str], holder: str, pair: Secret, h1: bytes
) -> dict[Kind, Good]:
    """Return the shares of a dealer by their kinds, as its holder opens them.

    Args:
        bundle: What the dealer sent.
        roster: Ids of the dealer's closed neighbourhood, ascending.
        holder: One of them.
        pair: Secret of the two transport keys.
        h1: Salt that the dealer used.
    """
    others = [name for name in roster if name != bundle.client]
    sealed = bundle.sealed[others.index(holder)]
    ids = (bundle.client, holder)
    position = roster.index(holder) + 1
    return {
        kind: Good(position, unseal(sealed, pair, ids=ids, h1=h1).reveal(kind).share)
        for kind in Kind
    }


def revealed(net: Network, dealer: str, kind: Kind) -> list[Good]:
    """Return the shares of a dealer that clients gave out, on the complete graph."""
    found: dict[int, Good] = {}
    for way, _, raw in net.log:
        m = msg.decode(raw) if way == "<" else None
        if isinstance(m, msg.Unmask):
            position = net.ids.index(m.client) + 1
            for r in m.revealed:
                if (r.dealer, r.kind) == (dealer, kind):
                    found[position] = Good(position, r.share)
    return list(found.values())


def secret_of(shares: list[Good], *, threshold: int) -> Secret | None:
    """Return the secret behind some shares, None where there are too few."""
    return recover(shares, threshold=threshold) if len(shares) >= threshold else None


def unmasked(
    net: Network, client: str, *, h1: bytes, seed: Secret, pairs: Iterable[tuple[str, Secret]]
) -> RingVector:
    """Return what a client sent, less its self mask and the masks with some peers."""
    total = Accumulator(net.context)
    net.encoding.ring.add(total.total, net.spools[client].vector())
    masks = [Signed(self_mask(net.context, h1, client=client, seed=seed), 1)]
    for peer, shared in pairs:
        masks.append(pair_mask(net.context, h1, client=client, peer=peer, shared=shared))
    for each in masks:
        total.remove(each.mask, sign=each.sign)
    return total.total
