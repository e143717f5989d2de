"""What a client knows and wants before it hears of an attempt, and its checks of the context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from choral.crypto.encoding import digest
from choral.crypto.signatures import SigningKey
from choral.secagg import statements
from choral.secagg.context import Context, RingEncoding
from choral.secagg.enrolment import authority_id
from choral.secagg.messages import Invitation
from choral.secagg.parameters import CORRUPT, Suite
from choral.secagg.ports import OnceStore
from choral.secagg.refusals import Reason, check

MAX_SUMS: Final = 2


@dataclass(frozen=True, slots=True)
class Site:
    """A data owner's identity and policy.

    Attributes:
        client: Its id.
        key: Its enrolled signing key; None for the semi-honest suite alone.
        enrolment: The authority's signature over id and key.
        authority: Verification key of the enrolment authority.
        server: Verification key of the server.
        min_cohort: Fewest clients in a sum that it joins.
        suites: Which suites it joins.
        min_corrupt: Smallest fraction of colluding clients that a random graph must withstand.
        max_sums: Sums on one base model that it joins.
    """

    client: str
    key: SigningKey | None
    enrolment: bytes
    authority: bytes
    server: bytes
    min_cohort: int
    suites: frozenset[Suite]
    min_corrupt: float = CORRUPT
    max_sums: int = MAX_SUMS


@dataclass(frozen=True, slots=True)
class Expected:
    """What the client itself downloaded and computed for this round.

    Attributes:
        run_id: The run that it takes part in.
        round: Counted from 1.
        models: SHA-256 of each base model that it holds, 32 bytes each.
        plan: Digest of the plan that it follows.
        encoding: How it encodes its vector.
        beacon: The public value that seeds the graph; empty where none is configured.
    """

    run_id: str
    round: int
    models: tuple[bytes, ...]
    plan: bytes
    encoding: RingEncoding
    beacon: bytes = b""


def check_invitation(m: Invitation, site: Site, expected: Expected) -> None:
    """Refuse a context that is not what this site expects and allows.

    Raises:
        Breach: It is not; or it is too weak for anybody.
    """
    context = m.context
    context.check()
    p = context.parameters
    allowed = p.suite in site.suites and not (context.signed and site.key is None)
    check(allowed, Reason.SUITE, f"the site does not join {p.suite}")
    statements.check_signature(
        context.signed,
        site.server,
        statements.invitation(context.h0),
        m.signature,
        reason=Reason.BAD_SERVER_SIGNATURE,
    )
    same = (context.run_id, context.round) == (expected.run_id, expected.round)
    check(same, Reason.OTHER_RUN, f"run {context.run_id}, round {context.round}")
    check(context.models == expected.models, Reason.OTHER_MODEL, "another model is summed")
    check(context.plan == expected.plan, Reason.OTHER_PLAN, "another plan is summed")
    check(context.encoding == expected.encoding, Reason.OTHER_ENCODING, "another encoding")
    if context.signed:
        known = context.authority == authority_id(site.authority)
        check(known, Reason.OTHER_AUTHORITY, "another enrolment authority")
    floor = f"floor {context.min_cohort} of {p.clients}, the site's is {site.min_cohort}"
    check(context.min_cohort >= site.min_cohort, Reason.SMALL_COHORT, floor)
    if not p.complete:
        enough = p.corrupt >= site.min_corrupt
        check(enough, Reason.WEAK_PARAMETERS, f"corrupt {p.corrupt}, floor {site.min_corrupt}")
        beacon = p.beacon == bool(expected.beacon)
        check(beacon, Reason.WRONG_BEACON, "the context and the site differ on the beacon")


class Once:
    """The durable answers of one client in one attempt.

    Args:
        store: The port.
        site: Whose.
        context: Of the attempt.
    """

    __slots__ = ("_context", "_prefix", "_round", "_site", "_store")

    def __init__(self, store: OnceStore, site: Site, context: Context) -> None:
        self._store = store
        self._site = site
        self._context = context
        self._prefix = (site.client, context.run_id)
        self._round = (*self._prefix, str(context.round))

    def enter(self) -> None:
        """Enter the attempt. From now on this client stays silent in every earlier one.

        Two open attempts of a round would give single clients away: half of the holders unmask one,
        half the other, and the sums differ by few. So the counter is raised before anything else is
        read, and `check_latest` is asked before every answer that helps to unmask.

        Raises:
            Breach: This attempt, or a later one, was entered before; the round is joined already;
                or the model's sums are used up.
        """
        fresh = self._store.advance(self._counter, self._context.serial)
        check(fresh, Reason.REPLAYED, f"round {self._context.round} was answered or is over")
        joined = self._store.read(self._joined)
        check(joined is None, Reason.JOINED, "an attempt of this round reached its end")
        for model in self._context.models:
            free = any(self._store.read(s) in (None, self._mine) for s in self._sums(model))
            check(free, Reason.MODEL_CAP, f"{self._site.max_sums} sums on this model")

    def check_latest(self) -> None:
        """Refuse to go on once a later attempt of the run was entered.

        Raises:
            Breach: `SUPERSEDED`.
        """
        latest = self._store.latest(self._counter)
        check(latest == self._context.serial, Reason.SUPERSEDED, "a later attempt was entered")

    def answer(self, step: str, content: bytes, *, reason: Reason) -> None:
        """Fix this attempt's one answer at a step.

        Raises:
            Breach: With the reason, where it was another one before.
        """
        slot = _slot(step, *self._round, str(self._context.attempt))
        stored = self._store.claim(slot, content)
        check(stored == content, reason, f"another answer was given at step {step}")

    def count(self) -> None:
        """Count a sum on each of the models, before the masked vector leaves.

        All attempts of a round are one sum: at most one of them is ever unmasked with this client's
        help. A round that fails has used its place all the same, since the client cannot know what
        the server learned.

        Raises:
            Breach: `MODEL_CAP`.
        """
        for model in self._context.models:
            taken = any(self._store.claim(s, self._mine) == self._mine for s in self._sums(model))
            check(taken, Reason.MODEL_CAP, f"{self._site.max_sums} sums on this model")

    def join(self) -> None:
        """Join the sum: no other attempt of this round from now on.

        Raises:
            Breach: `JOINED` or `SUPERSEDED`.
        """
        self.check_latest()
        mine = self._context.h0
        stored = self._store.claim(self._joined, mine)
        check(stored == mine, Reason.JOINED, "another attempt of this round was joined")
        self.check_latest()  # again: `enter` raises the counter before it looks at this slot

    @property
    def _counter(self) -> str:
        return _slot("attempt", *self._prefix)

    @property
    def _joined(self) -> str:
        return _slot("joined", *self._round)

    @property
    def _mine(self) -> bytes:
        """What stands for this round in a model's places."""
        return digest("choral secagg sum v1", *(part.encode() for part in self._round))

    def _sums(self, model: bytes) -> list[str]:
        """Return the places of a model's sums; counted over all runs."""
        names = range(self._site.max_sums)
        return [_slot("model", self._site.client, model.hex(), str(i)) for i in names]


def _slot(use: str, *parts: str) -> str:
    """Return a name that no other use or parts give."""
    return (
        f"{use}-{digest('choral secagg slot v1', use.encode(), *(p.encode() for p in parts)).hex()}"
    )
