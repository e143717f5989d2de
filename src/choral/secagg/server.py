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
    Close,
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
from choral.secagg.masking import Accumulator
from choral.secagg.messages import (
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
from choral.secagg.roster import check_advertise, check_order


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

    def receive(self, event: ServerEvent) -> ServerCommands:
        """Take an event; return what is to be done now."""
        if isinstance(event, Received):
            return self._received(event)
        rule = SERVER_TABLE.get((self.phase, type(event)))
        if rule is None:
            return ()
        return self._blaming(rule, event, getattr(event, "sender", ""))

    def _received(self, event: Received) -> ServerCommands:
        try:
            raw = event.message
            message = decode(raw) if isinstance(raw, bytes) else raw
            said = getattr(message, "client", None)
            check(said == event.sender, Reason.MALFORMED, "a message in another client's name")
        except Breach as breach:
            return self._reject(event.sender, breach)
        rule = SERVER_TABLE.get((self.phase, type(message)))
        if rule is None or event.sender not in self._waiting:
            return ()
        return self._blaming(rule, message, event.sender)

    def _blaming(
        self, rule: Callable[[Server, Any], ServerCommands], event: Any, sender: str
    ) -> ServerCommands:
        """Apply a rule; a failed check is the sender's fault."""
        try:
            return rule(self, event)
        except Breach as breach:
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
        if client in self._waiting:
            self.lost.setdefault(client, reason)
        return self._after_answer()

    def _after_answer(self) -> ServerCommands:
        """Close the step once nobody is left to wait for."""
        if self._waiting - self.answered - set(self.lost):
            return ()
        return SERVER_TABLE[self.phase, Close](self, Close())

    def _answer(self, client: str) -> ServerCommands:
        self.lost.pop(client, None)
        self.answered.add(client)
        return self._after_answer()

    def _next(self, phase: Phase) -> None:
        """Go on with those that answered."""
        self._waiting = frozenset(self.answered)
        self.answered = set()
        self.lost = {name: why for name, why in self.lost.items() if name in self._waiting}
        self.phase = phase

    def _abort(self, reason: str, *blamed: str) -> ServerCommands:
        self.phase = Phase.ABORTED
        self._sum = self._recovery = None
        return (Abandon(reason, blamed),)

    def _short(self) -> bool:
        return len(self.answered) < self._context.quorum

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
        check_order(m)
        keys = {m.transport, m.mask, m.verify_key} - {b""}
        fresh = len(keys) == (3 if m.verify_key else 2) and not keys & self._keys
        check(fresh, Reason.REPEATED_KEY, "a public key that another client has")
        self._keys |= keys
        self._adverts[m.client] = m
        return self._answer(m.client)

    def _list(self, _: Close) -> ServerCommands:
        if self._short():
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
        self._verify(m.client, statements.shares(cohort.h1, m), m.signature)
        self._bundles[m.client] = m
        self._trees[m.client] = Tree([statements.hash_leaf(h) for h in m.hashes])
        return self._answer(m.client)

    def _deliver(self, _: Close) -> ServerCommands:
        if self._short():
            return self._abort("too_few_shares")
        self._next(Phase.MASKING)
        self._sum = Accumulator(self._context)
        cohort, bundles, trees = self._having(), self._bundles, self._trees
        return tuple(
            Tell(name, cohort.deliveries(name, bundles, trees)) for name in sorted(bundles)
        )

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
        what = statements.masked(self._having().h1, client=m.client, content=m.digest)
        self._verify(m.client, what, m.signature)
        if self._sum is not None:
            self._sum.add(event.chunks, m.digest)
        self._digests[m.client] = m.digest
        return self._answer(m.client)

    def _seal(self, _: Close) -> ServerCommands:
        if self._short():
            return self._abort("too_few_vectors")
        cohort = self._having()
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
        return tuple(Tell(name, cohort.consents(name, consents)) for name in sorted(consents))

    # --- R4 and the end ---------------------------------------------------------------------------

    def _unmasked(self, m: Unmask) -> ServerCommands:
        if m.client in self.answered or self._recovery is None:
            return ()
        self._verify(m.client, statements.unmask(self._having().h1, m), m.signature)
        wrong = self._recovery.take(m)
        told = tuple(Reject(m.client, b.reason, b.about or m.client) for b in wrong)
        return (*told, *self._answer(m.client))

    def _finish(self, _: Close) -> ServerCommands:
        if self._recovery is None or self._sum is None:
            return ()
        self.phase = Phase.ABORTED  # a sum with half of its masks off is never touched again
        try:
            self._recovery.unmask(self._sum)
        except BadDealer as error:
            return self._abort("bad_dealer", error.dealer)
        except TooFewShares as error:
            return self._abort(f"too_few_shares_of {error.dealer}")
        except ChoralError as error:
            return self._abort(f"unmasking failed: {error.message}")
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

    # --- any step ---------------------------------------------------------------------------------

    def _complained(self, m: Complaint) -> ServerCommands:
        """Believe a client that it is out, and note whom it blames.

        A complaint's signature is for people who look into it later; the channel says who sent it.
        """
        told = Reject(m.client, m.reason, m.about)
        if not m.ends:
            return (told,)
        return (told, *self._lose(m.client, m.reason))

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
}
"""(phase, event or message) to rule. Everything else is ignored."""
