"""The machine of the server in one attempt.

`receive(event)` returns commands; it draws nothing and reads no clock, so the same events give the
same commands, and a server that crashed goes on from its log. A step ends when all that are left
have answered, or by `Close`. What a client did wrong costs that client its place and nothing else.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from choral.core.errors import ChoralError, PlanError
from choral.crypto.merkle import Tree
from choral.crypto.signatures import SigningKey, Statement
from choral.secagg import statements
from choral.secagg.cohort import Cohort
from choral.secagg.commands import (
    Abandon,
    Accused,
    Close,
    GiveUp,
    Lost,
    Received,
    Reject,
    ServerCommand,
    ServerCommands,
    ServerEvent,
    Start,
    Summed,
    Tell,
    Uploaded,
)
from choral.secagg.context import Context
from choral.secagg.masking import Accumulator, Spoiled
from choral.secagg.messages import (
    SEALED_SIZE,
    Advertise,
    Bundle,
    Complaint,
    Consent,
    Invitation,
    Result,
    Unmask,
    decode,
)
from choral.secagg.recovery import BadDealer, Recovery, TooFewShares
from choral.secagg.refusals import Breach, Reason, check
from choral.secagg.roster import check_advertise


class Phase(enum.StrEnum):
    """Where an attempt is. `DONE` and `ABORTED` are absorbing."""

    PLANNED = "planned"
    JOINING = "joining"
    SHARING = "sharing"
    MASKING = "masking"
    AGREEING = "agreeing"
    UNMASKING = "unmasking"
    DONE = "done"
    ABORTED = "aborted"


class Server:
    """One attempt, from the invitations to the sum or the reason why not.

    Args:
        context: What everybody signs.
        invited: The cohort, as many as the context's parameters say.
        key: The server's signing key; None in `semi_honest` only.
        authority: Verification key of the enrolment authority.
        beacon: Public value that seeds the graph; empty without one.

    Attributes:
        phase: Where it is.
        answered: Who answered the present step.
        lost: Who is out of the attempt, and why.

    Raises:
        PlanError: The cohort, key or beacon is not what the context says.
        Breach: No client would accept the context.
    """

    def __init__(
        self,
        context: Context,
        invited: Sequence[str],
        *,
        key: SigningKey | None,
        authority: bytes,
        beacon: bytes = b"",
    ) -> None:
        context.check()
        n = context.parameters.clients
        if len(set(invited)) != n or len(invited) != n:
            raise PlanError(f"{len(invited)} clients invited, expected {n} different ones")
        if context.signed == (key is None) or context.parameters.beacon != bool(beacon):
            raise PlanError("the server's key or beacon is not what the suite asks for")
        self.phase = Phase.PLANNED
        self.answered: set[str] = set()
        self.lost: dict[str, str] = {}
        self._context = context
        self._key = key
        self._authority = authority
        self._beacon = beacon
        self._waiting: frozenset[str] = frozenset(invited)
        self._adverts: dict[str, Advertise] = {}
        self._keys: set[bytes] = set()
        self._cohort: Cohort | None = None
        self._bundles: dict[str, Bundle] = {}
        self._trees: dict[str, Tree] = {}
        self._sum: Accumulator | None = None
        self._digests: dict[str, bytes] = {}
        self._consents: dict[str, Consent] = {}
        self._recovery: Recovery | None = None
        self._alive: frozenset[str] = frozenset()
        self._root = b""
        self._accused: set[tuple[str, str]] = set()
        self._open = len(self._waiting)

    def receive(self, event: ServerEvent) -> ServerCommands:
        """Take an event; return what is to be done now."""
        if isinstance(event, Received):
            return self._received(event)
        rule = SERVER_TABLE.get((self.phase, type(event)))
        if rule is None:
            return ()
        return self._blaming(rule, event, getattr(event, "sender", ""))

    def _received(self, event: Received) -> ServerCommands:
        if self.phase not in _OPEN or event.sender not in self._waiting:
            return ()
        try:
            raw = event.message
            message = decode(raw) if isinstance(raw, bytes) else raw
            said = getattr(message, "client", None)
            check(said == event.sender, Reason.MALFORMED, "a message in another client's name")
        except Breach as breach:
            return self._reject(event.sender, breach)
        rule = SERVER_TABLE.get((self.phase, type(message)))
        return () if rule is None else self._blaming(rule, message, event.sender)

    def _blaming(
        self, rule: Callable[[Server, Any], ServerCommands], event: Any, sender: str
    ) -> ServerCommands:
        """Apply a rule; a failed check is the sender's fault."""
        try:
            return rule(self, event)
        except Spoiled:
            return self._abort("spoiled_sum")
        except Breach as breach:
            if not sender:
                raise
            return self._reject(sender, breach)
        except ChoralError as error:
            if not sender:
                raise
            return self._reject(sender, Breach(Reason.FAILED, error.message))

    def _reject(self, sender: str, breach: Breach) -> ServerCommands:
        """Note what a client did wrong; it is out unless this step has its answer already."""
        told = Reject(sender, breach.reason, breach.about or sender)
        if sender in self.answered or sender not in self._waiting:
            return (told,)
        return (told, *self._lose(sender, breach.reason))

    def _lose(self, client: str, reason: str) -> ServerCommands:
        """Wait for a client no longer; what it answered before stays, and counts."""
        if client in self._waiting and client not in self.lost:
            self.lost[client] = reason
            self._open -= client not in self.answered
        return self._after_answer()

    def _after_answer(self) -> ServerCommands:
        """Close the step once nobody is left to wait for."""
        if not self._all_heard():
            return ()
        rule = SERVER_TABLE.get((self.phase, Close))
        if rule is None:
            return ()
        try:
            return rule(self, Close())
        except ChoralError as error:  # of the step that follows: no fault of the last one to answer
            return self._abort(f"failed: {error.message}")

    def _all_heard(self) -> bool:
        return not self._open

    def _answer(self, client: str) -> ServerCommands:
        was_lost = self.lost.pop(client, None) is not None
        self._open -= not was_lost and client not in self.answered
        self.answered.add(client)
        return self._after_answer()

    def _next(self, phase: Phase) -> None:
        """Go on with those that answered."""
        self._waiting = frozenset(self.answered)
        self.answered = set()
        self.lost = {name: why for name, why in self.lost.items() if name in self._waiting}
        self._open = len(self._waiting - set(self.lost))
        self.phase = phase

    def _abort(self, reason: str, *blamed: str) -> ServerCommands:
        self.phase = Phase.ABORTED
        self._sum = self._recovery = None
        return (Abandon(reason, blamed),)

    def _gave_up(self, _: GiveUp) -> ServerCommands:
        return self._abort("given_up")

    def _short(self, floor: int = 0) -> bool:
        return len(self.answered) < max(self._context.quorum, floor)

    def _tell(self, message: Any) -> list[ServerCommand]:
        return [Tell(name, message) for name in sorted(self._waiting)]

    # --- R0 and R1 --------------------------------------------------------------------------------

    def _start(self, _: Start) -> ServerCommands:
        self.phase = Phase.JOINING
        what = statements.invitation(self._context.h0)
        return tuple(self._tell(Invitation(self._context, statements.signature(self._key, what))))

    def _advertised(self, m: Advertise) -> ServerCommands:
        if m.client in self._adverts:
            return ()
        check_advertise(self._context, m, authority=self._authority)
        keys = {m.transport, m.mask, m.verify_key} - {b""}
        fresh = len(keys) == (3 if m.verify_key else 2) and not keys & self._keys
        check(fresh, Reason.REPEATED_KEY, "a public key that another client has")
        self._keys |= keys
        self._adverts[m.client] = m
        return self._answer(m.client)

    def _list(self, _: Close) -> ServerCommands:
        if self._short(self._context.parameters.least_listed):
            return self._abort("too_few_keys")
        self._next(Phase.SHARING)
        self._cohort = Cohort(self._context, self._adverts, key=self._key, beacon=self._beacon)
        return tuple(Tell(name, self._cohort.roster(name)) for name in self._cohort.ids)

    def _dealt(self, m: Bundle) -> ServerCommands:
        if m.client in self._bundles:
            return ()
        cohort = self._having()
        holders = len(cohort.closed(m.client))
        right = (len(m.hashes), len(m.sealed)) == (holders, holders - 1)
        check(right, Reason.BAD_SHARE, f"{len(m.hashes)} shares for {holders} holders")
        sized = {len(each) for each in m.sealed} <= {SEALED_SIZE}
        check(sized, Reason.BAD_SHARE, "a sealed share of another size")
        tree = Tree([statements.hash_leaf(h) for h in m.hashes])
        what = statements.dealt(cohort.h1, m.client, commitment=m.commitment, root=tree.root)
        self._verify(m.client, what, m.signature)
        self._bundles[m.client] = m
        self._trees[m.client] = tree
        return self._answer(m.client)

    def _deliver(self, _: Close) -> ServerCommands:
        if self._short():
            return self._abort("too_few_shares")
        self._next(Phase.MASKING)
        self._sum = Accumulator(self._context)
        cohort, bundles, trees = self._having(), self._bundles, self._trees
        told = cohort.deliveries(bundles, trees)
        return tuple(Tell(name, message) for name, message in told.items())

    # --- R2 and R3 --------------------------------------------------------------------------------

    def _uploaded(self, event: Uploaded) -> ServerCommands:
        m = event.message
        if event.sender not in self._waiting:
            return ()
        check(m.client == event.sender, Reason.MALFORMED, "a vector in another client's name")
        if m.client in self._digests:
            same = self._digests[m.client] == m.digest
            check(same, Reason.SECOND_VECTOR, "another vector came before")
            return ()
        cohort = self._having()
        what = statements.masked(cohort.h1, client=m.client, content=m.digest, dealers=m.dealers)
        self._verify(m.client, what, m.signature)
        near = (d for d in cohort.neighbours(m.client) if d in self._bundles)
        told = statements.dealers(cohort.h1, near)
        check(m.dealers == told, Reason.CHANGED_DEALERS, "masked with others than it was told of")
        if self._sum is not None:
            self._sum.add(event.chunks, m.digest)
        self._digests[m.client] = m.digest
        return self._answer(m.client)

    def _seal(self, _: Close) -> ServerCommands:
        if self._short():
            return self._abort("too_few_vectors")
        if self._sum is None or self._sum.count != len(self.answered):  # an interrupt between both
            return self._abort("spoiled_sum")
        cohort = self._having()
        for dealer in sorted(self._bundles):
            near = self.answered.intersection(cohort.closed(dealer))
            without = {by for by, about in self._accused if about == dealer}
            if near and len(near - without) < self._context.parameters.t:
                suspects = (dealer, *sorted(without)) if without else ()
                return self._abort("too_few_good_shares", *suspects)
        self._next(Phase.AGREEING if self._context.signed else Phase.UNMASKING)
        self._alive = self._waiting
        self._recovery = Recovery(self._context, cohort, bundles=self._bundles, alive=self._alive)
        told = cohort.survivors(self._alive)
        self._root = next(iter(told.values())).root
        return tuple(Tell(name, message) for name, message in told.items())

    def _consented(self, m: Consent) -> ServerCommands:
        cohort = self._having()
        what = statements.survivors(cohort.h1, count=len(self._alive), root=self._root)
        self._verify(m.client, what, m.signature)
        self._consents[m.client] = m
        return self._answer(m.client)

    def _agree(self, _: Close) -> ServerCommands:
        if len(self._consents) < self._context.parameters.t:
            return self._abort("too_few_consents")
        self._next(Phase.UNMASKING)
        cohort, consents = self._having(), self._consents
        told = cohort.consents(consents)
        return tuple(Tell(name, message) for name, message in told.items())

    # --- R4 and the end ---------------------------------------------------------------------------

    def _unmasked(self, m: Unmask) -> ServerCommands:
        if m.client in self.answered or self._recovery is None:
            return ()
        self._verify(m.client, statements.unmask(self._having().h1, m), m.signature)
        without = {about for by, about in self._accused if by == m.client}
        wrong = self._recovery.take(m, without=without)
        told = [Reject(m.client, b.reason, b.about or m.client) for b in wrong]
        return (*dict.fromkeys(told), *self._answer(m.client))  # each once, however many shares

    def _finish(self, _: Close) -> ServerCommands:
        if self._recovery is None or self._sum is None:
            return ()
        if not (self._recovery.complete() or self._all_heard()):
            return ()
        failed = self._unveil(self._recovery, self._sum)
        if failed:
            return self._abort(*failed)
        total, encoding = self._sum.total, self._context.encoding
        weight = int(total[encoding.weight_at]) if encoding.weight_at < encoding.size else 0
        count, h1 = len(self._alive), self._having().h1
        result = Result(h1, self._root, count, weight, self._sum.digest(), b"")
        what = statements.result(result)
        result = replace(result, signature=statements.signature(self._key, what))
        self.phase = Phase.DONE
        names = sorted(self._alive)
        told = (Tell(name, result) for name in names)
        return (Summed(total, tuple(names), result), *told)

    def _unveil(self, recovery: Recovery, total: Accumulator) -> tuple[str, ...]:
        """Take all masks off; return why it fails and who is to blame, or nothing."""
        self.phase = Phase.ABORTED  # a sum with half of its masks off is never touched again
        try:
            recovery.unmask(total)
        except BadDealer as error:
            return ("bad_dealer", error.dealer)
        except TooFewShares as error:
            return (f"too_few_shares_of {error.dealer}",)
        except Spoiled:
            return ("spoiled_sum",)
        except ChoralError as error:
            return (f"unmasking failed: {error.message}",)
        return ()

    # --- any step ---------------------------------------------------------------------------------

    def _complained(self, m: Complaint) -> ServerCommands:
        """Believe a client that it is out, and note whom it accuses: once each, and members only.

        One that refuses the context signs nothing under it, and accuses nobody but the server.
        """
        known = m.client in self._adverts and bool(m.signature or not self._context.signed)
        if known:
            self._verify(m.client, statements.complaint(self._context.h0, m), m.signature)
        about = m.about if known and m.about in self._adverts else ""
        told: tuple[ServerCommand, ...] = ()
        if m.ends or (m.client, about) not in self._accused:
            told = (Accused(m.client, m.reason, about, m.ends),)
        self._accused.add((m.client, about))
        return (*told, *self._lose(m.client, m.reason)) if m.ends else told

    def _lost(self, event: Lost) -> ServerCommands:
        return self._lose(event.client, "lost")

    def _verify(self, client: str, what: Statement, signature: bytes) -> None:
        statements.check_signature(
            self._context.signed,
            self._adverts[client].verify_key,
            what,
            signature,
            reason=Reason.BAD_SIGNATURE,
            about=client,
        )

    def _having(self) -> Cohort:
        if self._cohort is None:
            raise Breach(Reason.OUT_OF_ORDER, "there is no roster yet")
        return self._cohort


_OPEN: Final = (Phase.JOINING, Phase.SHARING, Phase.MASKING, Phase.AGREEING, Phase.UNMASKING)

SERVER_TABLE: Final[dict[tuple[Phase, type[Any]], Callable[[Server, Any], ServerCommands]]] = {
    (Phase.PLANNED, Start): Server._start,
    (Phase.JOINING, Advertise): Server._advertised,
    (Phase.JOINING, Close): Server._list,
    (Phase.SHARING, Bundle): Server._dealt,
    (Phase.SHARING, Close): Server._deliver,
    (Phase.MASKING, Uploaded): Server._uploaded,
    (Phase.MASKING, Close): Server._seal,
    (Phase.AGREEING, Consent): Server._consented,
    (Phase.AGREEING, Close): Server._agree,
    (Phase.UNMASKING, Unmask): Server._unmasked,
    (Phase.UNMASKING, Close): Server._finish,
    **{(phase, Complaint): Server._complained for phase in _OPEN},
    **{(phase, Lost): Server._lost for phase in _OPEN},
    **{(phase, GiveUp): Server._gave_up for phase in _OPEN},
}
"""(phase, event or message) to rule. Everything else is ignored."""
