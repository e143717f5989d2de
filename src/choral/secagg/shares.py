"""Dealing, sealing, opening and gathering shares of b and s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from choral.core.errors import Refused
from choral.core.ports import Rand
from choral.crypto import shamir
from choral.crypto.aead import OneTimeKey
from choral.crypto.derivation import Purpose, derive_key
from choral.crypto.encoding import frame
from choral.crypto.secret import Secret, Uncopied, draw
from choral.secagg import statements
from choral.secagg.messages import SALT_SIZE, Kind, Revealed, ShareHashes
from choral.secagg.refusals import Breach, Reason, check

_SIZE: Final = shamir.SHARE_SIZE
_PLAIN: Final = 2 * (_SIZE + SALT_SIZE)


class Held(Uncopied):
    """One dealer's two shares in the hands of one holder; gives out one of them, once chosen.

    Args:
        dealer: Whose.
        plain: Share of b, share of s, salt of b, salt of s.
    """

    __slots__ = ("_erased", "_given", "_plain", "dealer")

    def __init__(self, dealer: str, plain: bytes) -> None:
        self.dealer = dealer
        self._plain = bytearray(plain)
        self._given: Kind | None = None
        self._erased = False

    def hashes(self, h1: bytes, holder: str) -> ShareHashes:
        """Return the salted hashes of both shares."""
        return ShareHashes(
            self._hash(h1, holder, Kind.SELF_MASK), self._hash(h1, holder, Kind.MASK_KEY)
        )

    def _hash(self, h1: bytes, holder: str, kind: Kind) -> bytes:
        salt, share = self._part(kind)
        return statements.share_hash(
            h1, dealer=self.dealer, holder=holder, kind=kind, salt=salt, share=share
        )

    def _part(self, kind: Kind) -> tuple[bytes, bytes]:
        if self._erased:
            raise Refused("the shares were erased", hint="a new attempt needs new keys")
        at = 0 if kind is Kind.SELF_MASK else 1
        salt = 2 * _SIZE + at * SALT_SIZE
        return bytes(self._plain[salt : salt + SALT_SIZE]), bytes(self._plain[at * _SIZE :][:_SIZE])

    def reveal(self, kind: Kind) -> Revealed:
        """Return the share of one kind; the other one is out of reach from then on.

        Raises:
            Breach: The other kind was given out before.
        """
        other = self._given not in (None, kind)
        check(not other, Reason.TWO_SURVIVOR_SETS, "both shares of one dealer were asked for")
        self._given = kind
        return Revealed(self.dealer, kind, *self._part(kind))

    def erase(self) -> None:
        """Overwrite both shares."""
        self._plain[:] = bytes(len(self._plain))
        self._erased = True

    def __repr__(self) -> str:
        return f"Held(dealer={self.dealer!r}, …)"


def deal(
    seed: Secret, key: Secret, *, dealer: str, holders: int, threshold: int, rand: Rand
) -> list[Held]:
    """Return the shares of b and s for each holder of a closed neighbourhood, in order."""
    rows = shamir.share([seed, key], threshold=threshold, holders=holders, rand=rand)
    salts = draw(rand, holders * 2 * SALT_SIZE)
    dealt = []
    for i, row in enumerate(rows):
        salt = salts[i * 2 * SALT_SIZE :][: 2 * SALT_SIZE]
        dealt.append(Held(dealer, shamir.pack_share(row) + salt))
    rows.fill(0)
    return dealt


def _key(shared: Secret, h1: bytes, ids: tuple[str, str]) -> OneTimeKey:
    return OneTimeKey(derive_key(shared, purpose=Purpose.TRANSPORT, transcript=h1, ids=ids))


def _aad(h1: bytes, ids: tuple[str, str]) -> bytes:
    return frame("choral secagg sealed v1", h1, ids[0].encode(), ids[1].encode())


def seal(held: Held, shared: Secret, *, holder: str, h1: bytes) -> bytes:
    """Return a holder's shares, sealed; the caller sends these bytes and never seals again."""
    ids = (held.dealer, holder)
    sealed = _key(shared, h1, ids).seal(bytes(held._plain), aad=_aad(h1, ids))
    held.erase()
    return sealed


def unseal(sealed: bytes, shared: Secret, *, ids: tuple[str, str], h1: bytes) -> Held:
    """Return the shares that a dealer sealed for us; `ids` is (dealer, holder).

    Raises:
        Breach: `BAD_TAG`.
    """
    key = _key(shared, h1, ids)
    try:
        plain = key.open(sealed, aad=_aad(h1, ids))
    except Refused as error:
        raise Breach(Reason.BAD_TAG, error.message, about=ids[0]) from None
    finally:
        key.erase()
    check(len(plain) == _PLAIN, Reason.BAD_SHARE, f"{len(plain)} bytes", about=ids[0])
    return Held(ids[0], plain)


class Good(NamedTuple):
    """A share that matched its dealer's hash.

    Attributes:
        position: x of its holder.
        share: 36 bytes.
    """

    position: int
    share: bytes

    def __repr__(self) -> str:
        return f"Good(position={self.position}, …)"


def recover(shares: Sequence[Good], *, threshold: int) -> Secret | None:
    """Return the secret behind `threshold` shares, None where they stand for none.

    Raises:
        Refused: A share holds an element outside the field: its dealer made it so.
    """
    return recover_all([shares], threshold=threshold)[0]


def recover_all(dealt: Sequence[Sequence[Good]], *, threshold: int) -> list[Secret | None]:
    """Return the secrets of dealers whose shares come from the same positions, in this order.

    Raises:
        Refused: A share of one of them holds an element outside the field.
    """
    raws = [good.share for shares in dealt for good in shares[:threshold]]
    rows = shamir.unpack_shares(raws, secrets=1).reshape(len(dealt), threshold, shamir.LIMBS)
    positions = [good.position for good in dealt[0][:threshold]]
    return shamir.combine(rows.swapaxes(0, 1), positions=positions, threshold=threshold)
