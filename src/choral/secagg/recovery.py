"""Gathering shares, telling bad holders from bad dealers, and taking the masks off a sum."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from choral.core.errors import Refused
from choral.crypto.agreement import AgreementKey
from choral.crypto.secret import Secret
from choral.secagg import statements
from choral.secagg.cohort import Cohort
from choral.secagg.context import Context
from choral.secagg.masking import Accumulator, pair_mask, self_mask
from choral.secagg.messages import Bundle, Kind, Revealed, Unmask
from choral.secagg.refusals import Breach, Reason, check
from choral.secagg.shares import Good, recover


class BadDealer(Exception):
    """A dealer's shares match their hashes and stand for no secret of its own.

    Args:
        dealer: Who.
    """

    def __init__(self, dealer: str) -> None:
        super().__init__(dealer)
        self.dealer = dealer


class TooFewShares(Exception):
    """Fewer than t good shares of one dealer came.

    Args:
        dealer: Whose.
    """

    def __init__(self, dealer: str) -> None:
        super().__init__(dealer)
        self.dealer = dealer


class Recovery:
    """The shares of one attempt, each checked against its dealer's hash when it comes.

    Args:
        context: Of the attempt.
        cohort: U1.
        bundles: U2 and what it dealt.
        alive: U3.
    """

    __slots__ = ("_alive", "_bundles", "_cohort", "_context", "_good")

    def __init__(
        self,
        context: Context,
        cohort: Cohort,
        *,
        bundles: Mapping[str, Bundle],
        alive: frozenset[str],
    ) -> None:
        self._context = context
        self._cohort = cohort
        self._bundles = bundles
        self._alive = alive
        self._good: dict[str, list[Good]] = {dealer: [] for dealer in bundles}

    def take(self, m: Unmask, *, without: Collection[str]) -> tuple[Breach, ...]:
        """Keep the good shares of a holder; return what is wrong with the others.

        Args:
            m: What it reveals.
            without: Dealers of whom it has said at R2 that it holds no good share.
        """
        wrong: list[Breach] = []
        seen: set[str] = set()
        for revealed in m.revealed:
            try:
                check(revealed.dealer not in seen, Reason.REPEATED_ID, "a dealer is there twice")
                seen.add(revealed.dealer)
                good = self._checked(m.client, revealed)
            except Breach as breach:
                wrong.append(breach)
                continue
            self._good[revealed.dealer].append(good)
        owed = (d for d in self._cohort.closed(m.client) if d in self._bundles)
        missing = [d for d in owed if d not in seen and d not in without]
        if missing:
            held_back = f"shares of {len(missing)} dealers held back"
            wrong.append(Breach(Reason.BAD_SHARE, held_back, about=m.client))
        return tuple(wrong)

    def _checked(self, holder: str, r: Revealed) -> Good:
        """Return a share that is of the kind asked for and matches its hash."""
        check(r.dealer in self._bundles, Reason.NOT_A_DEALER, "a share of nobody", about=holder)
        places = self._cohort.places(r.dealer)
        check(holder in places, Reason.NOT_A_NEIGHBOUR, "a share it never had", about=holder)
        kind = Kind.SELF_MASK if r.dealer in self._alive else Kind.MASK_KEY
        hashes = self._bundles[r.dealer].hashes[places[holder]]
        found = statements.share_hash(
            self._cohort.h1, dealer=r.dealer, holder=holder, kind=kind, salt=r.salt, share=r.share
        )
        wanted = hashes.self_mask if kind is Kind.SELF_MASK else hashes.mask_key
        good = r.kind is kind and found == wanted
        check(good, Reason.BAD_SHARE, "not the share that was dealt", about=holder)
        return Good(places[holder] + 1, r.share)

    def complete(self) -> bool:
        """Return whether every secret that is needed can be put together."""
        t = self._context.parameters.t
        return all(len(self._good[dealer]) >= t for dealer in self._needed())

    def _needed(self) -> list[str]:
        """Return the dealers whose secret must be recovered: without survivors beside it, none."""
        return [d for d in sorted(self._bundles) if d in self._alive or self._near(d)]

    def _near(self, dealer: str) -> list[str]:
        return [v for v in self._cohort.neighbours(dealer) if v in self._alive]

    def unmask(self, total: Accumulator) -> None:
        """Take all masks off the sum.

        Raises:
            TooFewShares: Of some dealer; the sum is useless then.
            BadDealer: It dealt shares that do not fit its commitment or key.
        """
        h1 = self._cohort.h1
        for dealer in self._needed():
            if dealer in self._alive:
                seed = self._secret(dealer, self._fits_commitment)
                mask = self_mask(self._context, h1, client=dealer, seed=seed)
                total.remove(mask, sign=1)
                seed.erase()
                continue
            key = AgreementKey(self._secret(dealer, self._fits_key))
            for peer in self._near(dealer):
                shared = key.exchange(self._cohort.adverts[peer].mask)
                signed = pair_mask(self._context, h1, client=peer, peer=dealer, shared=shared)
                total.remove(signed.mask, sign=signed.sign)
                shared.erase()
            key.erase()

    def _secret(self, dealer: str, fits: Callable[[str, Secret], bool]) -> Secret:
        """Return a dealer's secret from any t good shares."""
        t = self._context.parameters.t
        good = sorted(self._good[dealer], key=lambda share: share.position)
        if len(good) < t:
            raise TooFewShares(dealer)
        try:
            found = recover(good, threshold=t)
        except Refused:
            raise BadDealer(dealer) from None
        if found is None:
            raise BadDealer(dealer)
        if not fits(dealer, found):
            found.erase()
            raise BadDealer(dealer)
        return found

    def _fits_commitment(self, dealer: str, seed: Secret) -> bool:
        made = statements.commitment(self._cohort.h1, seed.expose())
        return made == self._bundles[dealer].commitment

    def _fits_key(self, dealer: str, secret: Secret) -> bool:
        return AgreementKey(secret).public == self._cohort.adverts[dealer].mask
