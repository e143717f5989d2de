"""The machine of one client in one attempt.

`receive(event)` returns commands. `CLIENT_TABLE` says what may happen in which phase; an event
without an entry changes nothing. A message that was answered before gets the same answer again;
another message of the same kind ends the client's part. So does every failed check: the client
erases its keys and sends a complaint that names the check.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from choral.core.errors import ChoralError
from choral.core.ports import Rand
from choral.crypto.agreement import AgreementKey
from choral.crypto.secret import Secret
from choral.crypto.signatures import Statement
from choral.secagg import statements
from choral.secagg.commands import (
    ClientCommands,
    ClientEvent,
    Counted,
    Ended,
    Send,
    Stopped,
    Upload,
)
from choral.secagg.context import Context
from choral.secagg.masking import Signed, mask_into, pair_mask, self_mask
from choral.secagg.messages import (
    Advertise,
    Bundle,
    Complaint,
    Consent,
    Consents,
    Deliveries,
    Delivery,
    FromServer,
    Invitation,
    Kind,
    Masked,
    Result,
    Roster,
    Survivors,
    Unmask,
    decode,
)
from choral.secagg.opening import check_consents, check_delivery, check_result
from choral.secagg.ports import OnceStore, Sink, Source
from choral.secagg.refusals import Breach, Reason, check
from choral.secagg.roster import View, check_roster, check_survivors, exchange
from choral.secagg.shares import Held, deal, seal, unseal
from choral.secagg.site import Expected, Once, Site, check_invitation


class Phase(enum.StrEnum):
    """Where a client is. `COUNTED`, `STOPPED` and `ENDED` are absorbing."""

    WAITING = "waiting"
    ADVERTISED = "advertised"
    SHARED = "shared"
    MASKED = "masked"
    CONSENTED = "consented"
    UNMASKED = "unmasked"
    COUNTED = "counted"
    STOPPED = "stopped"
    ENDED = "ended"


class Client:
    """One client in one attempt.

    Guarantees: one masked vector for its keys; of each dealer one kind of share, and none before
    the survivors are fixed; what `once` stores is stored before the command that depends on it.

    Args:
        site: Identity and policy.
        expected: What the client downloaded and computed itself.
        rand: Secret randomness.
        once: Durable answers.
        source: The encoded vector.
        sink: Spool of the masked vector.

    Attributes:
        phase: Where it is.
    """

    def __init__(
        self,
        site: Site,
        expected: Expected,
        *,
        rand: Rand,
        once: OnceStore,
        source: Source,
        sink: Sink,
    ) -> None:
        self.phase = Phase.WAITING
        self._site = site
        self._expected = expected
        self._rand = rand
        self._store = once
        self._source = source
        self._sink = sink
        self._answers: dict[type[Any], tuple[FromServer, ClientCommands]] = {}
        self._context: Context | None = None
        self._once: Once | None = None
        self._transport: AgreementKey | None = None
        self._mask: AgreementKey | None = None
        self._advertise: Advertise | None = None
        self._seed: Secret | None = None
        self._view: View | None = None
        self._shared: dict[str, Secret] = {}
        self._held: dict[str, Held] = {}
        self._dealers: frozenset[str] = frozenset()
        self._survivors: Survivors | None = None
        self._alive: frozenset[str] = frozenset()

    def receive(self, event: ClientEvent) -> ClientCommands:
        """Take a message, as bytes or decoded, or the end; return what is to be done now."""
        if self.phase in {Phase.COUNTED, Phase.STOPPED, Phase.ENDED}:
            self._answers.clear()
            return ()
        if isinstance(event, Ended):
            self.phase = Phase.ENDED
            self._answers.clear()
            self._erase()
            return ()
        try:
            message = decode(event) if isinstance(event, bytes) else event
            return self._take(message)  # type: ignore[arg-type]  # others have no rule
        except Breach as breach:
            return self._stop(breach)
        except ChoralError as error:
            return self._stop(Breach(Reason.FAILED, error.message))
        except BaseException:  # a source, a sink or a store failed: nothing of this attempt leaves
            self.phase = Phase.STOPPED
            self._answers.clear()
            self._erase()
            raise

    def _take(self, message: FromServer) -> ClientCommands:
        kind = type(message)
        if kind in self._answers:
            first, commands = self._answers[kind]
            check(message == first or kind is Consents, CHANGED[kind], f"a second {kind.__name__}")
            return commands
        rule = CLIENT_TABLE.get((self.phase, kind))
        if rule is None:
            return ()
        commands = rule(self, message)
        self._answers[kind] = (message, commands)
        return commands

    # --- R0 and R1 --------------------------------------------------------------------------------

    def _invited(self, m: Invitation) -> ClientCommands:
        check_invitation(m, self._site, self._expected)
        once = Once(self._store, self._site, m.context)
        once.enter()
        self._context, self._once = m.context, once
        self._transport = AgreementKey.random(self._rand)
        self._mask = AgreementKey.random(self._rand)
        signed = m.context.signed and self._site.key is not None
        mine = Advertise(
            self._site.client,
            self._transport.public,
            self._mask.public,
            self._site.key.public if signed and self._site.key else b"",
            self._site.enrolment if signed else b"",
            b"",
        )
        what = statements.advertise(m.context.h0, mine)
        self._advertise = replace(mine, signature=self._sign(what))
        self.phase = Phase.ADVERTISED
        return (Send(self._advertise),)

    def _listed(self, m: Roster) -> ClientCommands:
        context = _have(self._context)
        view = check_roster(
            context,
            m,
            own=_have(self._advertise),
            authority=self._site.authority,
            server=self._site.server,
            beacon=self._expected.beacon if context.parameters.beacon else b"",
        )
        self._view = view
        self._seed = Secret.random(self._rand)
        mask, transport = _have(self._mask).secret, _have(self._transport).secret
        fresh = self._seed not in (mask, transport) and mask != transport
        check(fresh, Reason.FAILED, "the source of randomness repeats itself")
        dealt = deal(
            self._seed,
            _have(self._mask).secret,
            dealer=self._site.client,
            holders=len(view.holders),
            threshold=context.parameters.t,
            rand=self._rand,
        )
        named = list(zip(view.holders, dealt, strict=True))
        self._held = {self._site.client: dict(named)[self._site.client]}
        try:
            hashes = tuple(held.hashes(view.h1, holder) for holder, held in named)
            others = [pair for pair in named if pair[0] != self._site.client]
            sealed = tuple(self._seal(view, holder, held) for holder, held in others)
        finally:
            for holder, held in named:
                if holder != self._site.client:
                    held.erase()
        bundle = Bundle(
            self._site.client,
            statements.commitment(view.h1, self._seed.expose()),
            hashes,
            sealed,
            b"",
        )
        bundle = replace(bundle, signature=self._sign(statements.shares(view.h1, bundle)))
        self.phase = Phase.SHARED
        return (Send(bundle),)

    def _seal(self, view: View, holder: str, held: Held) -> bytes:
        public = view.by_id[holder].transport
        self._shared[holder] = exchange(_have(self._transport), public, client=holder)
        return seal(held, self._shared[holder], holder=holder, h1=view.h1)

    # --- R2 ---------------------------------------------------------------------------------------

    def _delivered(self, m: Deliveries) -> ClientCommands:
        context, view = _have(self._context), _have(self._view)
        peers = view.by_id
        names = [d.dealer for d in m.deliveries]
        distinct = len(set(names)) == len(names) and set(names) <= set(self._shared)
        check(distinct, Reason.NOT_A_NEIGHBOUR, "dealers that are repeated or no neighbours")
        t = context.parameters.t
        check(len(names) + 1 >= t, Reason.TOO_FEW_SHARES, f"{len(names)} dealers, threshold {t}")
        reports: list[Send] = []
        for delivery in m.deliveries:
            check_delivery(context, view, delivery, public=peers[delivery.dealer].verify_key)
            reports.extend(self._open(view, delivery))
        self._dealers = frozenset((*names, self._site.client))
        _have(self._once).count()
        masks = self._masks(context, view, peers)
        try:
            content = mask_into(context, self._source, self._sink, masks=masks)
        finally:
            for each in masks:
                each.mask.erase()
        _have(self._once).answer("masked", content, reason=Reason.SECOND_VECTOR)
        mine = self._site.client
        dealt = statements.dealers(view.h1, names)
        what = statements.masked(view.h1, client=mine, content=content, dealers=dealt)
        self.phase = Phase.MASKED
        self._erase_keys()
        return (*reports, Upload(Masked(mine, content, dealt, self._sign(what))))

    def _open(self, view: View, m: Delivery) -> tuple[Send, ...]:
        """Keep a dealer's share, or report that it is bad and go on without it."""
        mine = self._site.client
        try:
            shared = self._shared[m.dealer]
            held = unseal(m.sealed, shared, ids=(m.dealer, mine), h1=view.h1)
            good = held.hashes(view.h1, mine) == m.hashes
            check(good, Reason.BAD_SHARE, "not the one that was signed", about=m.dealer)
        except Breach as breach:
            return (Send(self._complaint(breach, ends=False)),)
        self._held[m.dealer] = held
        return ()

    def _masks(self, context: Context, view: View, peers: Mapping[str, Advertise]) -> list[Signed]:
        mine = self._site.client
        masks = [Signed(self_mask(context, view.h1, client=mine, seed=_have(self._seed)), 1)]
        try:
            for name in sorted(self._dealers - {mine}):
                shared = exchange(_have(self._mask), peers[name].mask, client=name)
                masks.append(pair_mask(context, view.h1, client=mine, peer=name, shared=shared))
                shared.erase()
        except Breach:
            for each in masks:
                each.mask.erase()
            raise
        return masks

    # --- R3 and R4 --------------------------------------------------------------------------------

    def _surviving(self, m: Survivors) -> ClientCommands:
        context, view = _have(self._context), _have(self._view)
        _have(self._once).check_latest()
        self._alive = check_survivors(context, view, m, dealers=self._dealers)
        what = statements.survivors(view.h1, count=m.count, root=m.root)
        _have(self._once).answer("survivors", what, reason=Reason.TWO_SURVIVOR_SETS)
        self._survivors = m
        if not context.signed:
            return self._unmask()
        self.phase = Phase.CONSENTED
        return (Send(Consent(self._site.client, self._sign(what))),)

    def _agreed(self, m: Consents) -> ClientCommands:
        check_consents(
            _have(self._context), _have(self._view), m, _have(self._survivors), self._alive
        )
        return self._unmask()

    def _unmask(self) -> ClientCommands:
        """Reveal of each dealer the one share that the survivors ask for."""
        view = _have(self._view)
        _have(self._once).join()
        revealed = tuple(
            held.reveal(Kind.SELF_MASK if name in self._alive else Kind.MASK_KEY)
            for name, held in sorted(self._held.items())
        )
        answer = Unmask(self._site.client, revealed, b"")
        answer = replace(answer, signature=self._sign(statements.unmask(view.h1, answer)))
        self.phase = Phase.UNMASKED
        self._erase()
        return (Send(answer),)

    def _result(self, m: Result) -> ClientCommands:
        check_result(
            _have(self._context),
            m,
            h1=_have(self._view).h1,
            survivors=_have(self._survivors),
            server=self._site.server,
        )
        self.phase = Phase.COUNTED
        self._erase()
        return (Counted(m),)

    # --- endings ----------------------------------------------------------------------------------

    def _stop(self, breach: Breach) -> ClientCommands:
        self.phase = Phase.STOPPED
        self._answers.clear()
        self._erase()
        return (Send(self._complaint(breach, ends=True)), Stopped(_bare(breach)))

    def _complaint(self, breach: Breach, *, ends: bool) -> Complaint:
        raw = Complaint(self._site.client, breach.reason, breach.about, ends, b"")
        if self._context is None:  # not one word under a context that was refused
            return raw
        what = statements.complaint(self._context.h0, raw)
        return replace(raw, signature=self._sign(what))

    def _sign(self, what: Statement) -> bytes:
        signed = self._context is not None and self._context.signed
        return statements.signature(self._site.key if signed else None, what)

    def _erase_keys(self) -> None:
        """Erase what only R1 and R2 needed: private keys, pair secrets and the seed."""
        for key in (self._transport, self._mask):
            if key is not None:
                key.erase()
        for secret in (self._seed, *self._shared.values()):
            if secret is not None:
                secret.erase()

    def _erase(self) -> None:
        """Erase all keys and shares; public values and fixed answers stay."""
        self._erase_keys()
        for held in self._held.values():
            held.erase()
        self._held.clear()


def _bare(breach: Breach) -> Breach:
    """Return a breach without the frames it came through: they hold keys and shares."""
    breach.__traceback__ = breach.__context__ = breach.__cause__ = None
    return breach


def _have(value: Any) -> Any:
    """Return what an earlier step set."""
    if value is None:
        raise Breach(Reason.OUT_OF_ORDER, "a step before this one is missing")
    return value


CLIENT_TABLE: Final[dict[tuple[Phase, type[Any]], Callable[[Client, Any], ClientCommands]]] = {
    (Phase.WAITING, Invitation): Client._invited,
    (Phase.ADVERTISED, Roster): Client._listed,
    (Phase.SHARED, Deliveries): Client._delivered,
    (Phase.MASKED, Survivors): Client._surviving,
    (Phase.CONSENTED, Consents): Client._agreed,
    (Phase.CONSENTED, Result): Client._result,
    (Phase.UNMASKED, Result): Client._result,
}
"""(phase, message) to rule. Everything else is ignored."""

CHANGED: Final[dict[type[Any], Reason]] = {
    Invitation: Reason.CHANGED_CONTEXT,
    Roster: Reason.CHANGED_ROSTER,
    Deliveries: Reason.SECOND_VECTOR,
    Survivors: Reason.TWO_SURVIVOR_SETS,
    Consents: Reason.MALFORMED,
    Result: Reason.NOT_COUNTED,
}
"""Message to what it means that a second, different one came."""
