"""Gathering shares, telling bad holders from bad dealers, and taking the masks off a sum."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from choral.core.errors import Refused
from choral.crypto.agreement import AgreementKey
from choral.crypto.secret import Secret
from choral.secagg import statements
from choral.secagg.cohort import Cohort
from choral.secagg.context import Context
from choral.secagg.masking import Accumulator, pair_mask, self_mask
from choral.secagg.messages import Bundle, Kind, Revealed, Unmask
from choral.secagg.refusals import Breach, Reason
from choral.secagg.shares import Good, recover, recover_all


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
        self._good: dict[str, dict[int, Good]] = {dealer: {} for dealer in bundles}

    def take(self, m: Unmask, *, without: Collection[str]) -> tuple[Breach, ...]:
        """Keep the good shares of a holder; return what is wrong with the others.

        Args:
            m: What it reveals.
            without: Dealers of whom it has said at R2 that it holds no good share.
        """
        wrong: list[Breach] = []
        seen: set[str] = set()
        for revealed in m.revealed:
            dealer = revealed.dealer
            try:
                if dealer in seen:
                    raise Breach(Reason.REPEATED_ID, "a dealer is there twice")
                seen.add(dealer)
                good = self._checked(m.client, revealed)
            except Breach as breach:
                wrong.append(breach)
                continue
            self._good[dealer][good.position] = good  # once, should an interrupt bring it twice
        owed = (d for d in self._cohort.closed(m.client) if d in self._bundles)
        missing = [d for d in owed if d not in seen and d not in without]
        if missing:
            held_back = f"shares of {len(missing)} dealers held back"
            wrong.append(Breach(Reason.BAD_SHARE, held_back, about=m.client))
        return tuple(wrong)

    def _checked(self, holder: str, r: Revealed) -> Good:
        """Return a share that is of the kind asked for and matches its hash."""
        dealer = r.dealer
        bundle = self._bundles.get(dealer)
        if bundle is None:
            raise Breach(Reason.NOT_A_DEALER, "a share of nobody", about=holder)
        place = self._cohort.places(dealer).get(holder)
        if place is None:
            raise Breach(Reason.NOT_A_NEIGHBOUR, "a share it never had", about=holder)
        kind = Kind.SELF_MASK if dealer in self._alive else Kind.MASK_KEY
        of_seed, of_key = bundle.hashes[place]
        found = statements.share_hash(
            self._cohort.h1, dealer=dealer, holder=holder, kind=kind, salt=r.salt, share=r.share
        )
        if r.kind is not kind or found != (of_seed if kind is Kind.SELF_MASK else of_key):
            raise Breach(Reason.BAD_SHARE, "not the share that was dealt", about=holder)
        return Good(place + 1, r.share)

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
        needed = self._needed()
        found = self._secrets(needed)
        try:
            for dealer in needed:
                self._remove(total, dealer, found[dealer])
        finally:
            for secret in found.values():
                if secret is not None:
                    secret.erase()

    def _remove(self, total: Accumulator, dealer: str, secret: Secret | None) -> None:
        """Take the masks of one dealer off, whose secret is erased then."""
        h1 = self._cohort.h1
        alive = dealer in self._alive
        fits = self._fits_commitment if alive else self._fits_key
        if secret is None or not fits(dealer, secret):
            raise BadDealer(dealer)
        if alive:
            mask = self_mask(self._context, h1, client=dealer, seed=secret)
            total.remove(mask, sign=1)
            secret.erase()
            return
        key = AgreementKey(secret)
        for peer in self._near(dealer):
            shared = key.exchange(self._cohort.adverts[peer].mask)
            signed = pair_mask(self._context, h1, client=peer, peer=dealer, shared=shared)
            total.remove(signed.mask, sign=signed.sign)
            shared.erase()
        key.erase()

    def _secrets(self, dealers: Sequence[str]) -> dict[str, Secret | None]:
        """Return each dealer's secret from any t good shares; None where they stand for none.

        Those whose shares come from the same holders are put together at once.
        """
        t = self._context.parameters.t
        used: dict[str, list[Good]] = {}
        groups: dict[tuple[int, ...], list[str]] = {}
        for dealer in dealers:
            if len(self._good[dealer]) < t:
                raise TooFewShares(dealer)
            used[dealer] = sorted(self._good[dealer].values())[:t]
            groups.setdefault(tuple([g.position for g in used[dealer]]), []).append(dealer)
        found: dict[str, Secret | None] = {}
        for group in groups.values():
            try:
                secrets = recover_all([used[dealer] for dealer in group], threshold=t)
            except Refused:  # a bad dealer among them
                secrets = [_recovered(used[dealer]) for dealer in group]
            found.update(zip(group, secrets, strict=True))
        return found

    def _fits_commitment(self, dealer: str, seed: Secret) -> bool:
        made = statements.commitment(self._cohort.h1, seed.expose())
        return made == self._bundles[dealer].commitment

    def _fits_key(self, dealer: str, secret: Secret) -> bool:
        return AgreementKey(secret).public == self._cohort.adverts[dealer].mask


def _recovered(shares: Sequence[Good]) -> Secret | None:
    """Return the secret behind all of these shares, None where they stand for none."""
    try:
        return recover(shares, threshold=len(shares))
    except Refused:
        return None
