"""What a cheat of a client is, and the moves that cheats are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from choral.crypto.secret import Secret
from choral.crypto.signatures import SigningKey
from choral.secagg import messages as msg
from choral.secagg import statements
from choral.secagg.client import Client
from choral.secagg.refusals import Reason
from choral.secagg.server import Server
from choral.secagg.shares import deal, seal
from choral.testing.fakes import SeededRand
from choral.testing.secagg.attack import Play, consent, sum_faults, survivors
from choral.testing.secagg.monitor import Monitor
from choral.testing.secagg.network import Network
from choral.testing.secagg.parties import ClientFactory, ServerFactory
from choral.testing.secagg.spoils import collude

CHEAT: Final = "c001"
Rejection: TypeAlias = tuple[str, Reason, str]


@dataclass(frozen=True, slots=True)
class Cheat:
    """One thing that a malicious client may try on the server and the others.

    Attributes:
        name: What it is called.
        tries: What the client does.
        move: Does it, and runs the attempt to its end.
        rejections: (sender, check, who is to blame) of all that the server must refuse.
        accusations: (client, check, whom it accuses) of all complaints that it must note.
        counted: Whether the cheat's vector is in the sum all the same.
        abandoned: Why there is no sum; empty where there is one.
        blamed: Whom the server gives as the reason for that.
        clients: Size of the cohort.
        options: More arguments of `Network`.
    """

    name: str
    tries: str
    move: Play
    rejections: frozenset[Rejection] = frozenset()
    accusations: frozenset[Rejection] = frozenset()
    counted: bool = True
    abandoned: str = ""
    blamed: tuple[str, ...] = ()
    clients: int = 4
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def expects(self) -> str:
        """What the server must do, in words."""
        named = _named((*self.rejections, *self.accusations))
        end = f"abandons: {self.abandoned}" if self.abandoned else "an exact sum"
        return ", ".join([*named, f"{end}{', blames ' if self.blamed else ''}", *self.blamed])

    def network(self, *, client: ClientFactory = Client, server: ServerFactory = Server) -> Network:
        """Return the network that it is played in."""
        monitor = Monitor(halt=False)
        return Network(self.clients, client=client, server=server, monitor=monitor, **self.options)

    def play(self, net: Network) -> None:
        """Play it to the end."""
        self.move(net)

    def found(self, net: Network) -> str:
        """Say what the server did."""
        named = _named((*net.rejected, *net.accused))
        end = net.abandoned.reason if net.abandoned else "a sum" if net.summed else "no end"
        return ", ".join([*named, end])

    def faults(self, net: Network) -> list[str]:
        """Return what is not as it must be."""
        faults = sum_faults(net, needed=not self.abandoned)
        if set(net.rejected) != self.rejections or set(net.accused) != self.accusations:
            faults.append("other refusals than expected")
        if net.summed is not None:
            wanted = set(net.ids) if self.counted else set(net.ids) - {CHEAT}
            if set(net.summed.survivors) != wanted:
                faults.append("others are counted than expected")
        end = net.abandoned
        if (end.reason if end else "", end.blamed if end else ()) != (self.abandoned, self.blamed):
            faults.append(f"ended by {end.reason if end else 'a sum'}")
        return [*net.monitor.faults, *faults]


def _named(rejections: Iterable[Rejection]) -> list[str]:
    """Return what was refused and whose fault it was said to be."""
    return sorted({f"{why} of {who or 'the server'}" for _, why, who in rejections})


# --- moves ----------------------------------------------------------------------------------------


def send_other(kind: type[Any], change: Callable[[Network, Any], msg.FromClient | None]) -> Play:
    """Change one kind of message of the cheat."""

    def move(net: Network) -> None:
        def forward(client: str, m: Any) -> Any:
            return change(net, m) if client == CHEAT and isinstance(m, kind) else m

        net.forward = forward
        net.run()

    return move


def send_both(kind: type[Any], change: Callable[[Network, Any], msg.FromClient]) -> Play:
    """Send a message as it should be, then another."""

    def both(net: Network, m: Any) -> msg.FromClient:
        net.server_does(net.server.receive(net.event(CHEAT, m)))
        return change(net, m)

    return send_other(kind, both)


def four_times(net: Network, m: Any) -> msg.FromClient:
    """Send three copies of a message, and return the fourth."""
    for _ in range(3):
        net.server_does(net.server.receive(net.event(CHEAT, m)))
    return m  # type: ignore[no-any-return]


def advertise(change: Callable[[Network, msg.Advertise], msg.Advertise]) -> Play:
    """Advertise something else, signed."""

    def made(net: Network, m: msg.Advertise) -> msg.Advertise:
        changed = change(net, m)
        what = statements.advertise(net.context.h0, changed)
        return replace(changed, signature=net.keys[CHEAT].sign(what))

    return send_other(msg.Advertise, made)


def signed_unmask(net: Network, m: msg.Unmask, given: tuple[msg.Revealed, ...]) -> msg.Unmask:
    """Return an answer with other shares, signed."""
    made = replace(m, revealed=given)
    return replace(made, signature=net.keys[m.client].sign(statements.unmask(net.h1, made)))


def reveal(change: Callable[[tuple[msg.Revealed, ...]], tuple[msg.Revealed, ...]]) -> Play:
    """Reveal something else, signed."""
    return send_other(msg.Unmask, lambda net, m: signed_unmask(net, m, change(m.revealed)))


def wrong_share(**changes: Any) -> Play:
    """Reveal one share with something changed, signed."""
    return reveal(lambda given: (replace(given[0], **changes), *given[1:]))


def two_holders(net: Network) -> None:
    """Let two clients reveal a bad share."""

    def forward(client: str, m: Any) -> Any:
        if client in {CHEAT, "c002"} and isinstance(m, msg.Unmask):
            given = (replace(m.revealed[0], share=bytes(36)), *m.revealed[1:])
            return signed_unmask(net, m, given)
        return m

    net.forward = forward
    net.run()


def far_share(net: Network, m: msg.Unmask) -> msg.Unmask:
    """Add a share of a dealer that is no neighbour."""
    near = {x.advertise.client for x in net.told[CHEAT][msg.Roster].members}
    far = next(name for name in net.ids if name not in near)
    return signed_unmask(net, m, (*m.revealed, replace(m.revealed[0], dealer=far)))


def signed_bundle(net: Network, m: msg.Bundle) -> msg.Bundle:
    """Return shares under a new signature of the cheat."""
    what = statements.shares(net.h1, m)
    return replace(m, signature=net.keys[CHEAT].sign(what))


def bad_dealer(*, lost: bool) -> Play:
    """Share out another secret than the one committed to and advertised; maybe be lost then."""

    def move(net: Network) -> None:
        own = collude(net, CHEAT, make=Client)

        def forward(client: str, m: Any) -> Any:
            if client != CHEAT:
                return m
            if isinstance(m, msg.Bundle):
                wrong = Secret(bytes(range(32)))
                t = net.context.parameters.t
                dealt = deal(wrong, wrong, dealer=CHEAT, holders=4, threshold=t, rand=net.rand)
                named = list(zip(net.ids, dealt, strict=True))
                hashes = tuple(held.hashes(net.h1, name) for name, held in named)
                peers = net.told[CHEAT][msg.Roster].members
                sealed = tuple(
                    seal(
                        held,
                        own.transport.exchange(x.advertise.transport),
                        holder=name,
                        h1=net.h1,
                    )
                    for (name, held), x in zip(named, peers, strict=True)
                    if name != CHEAT
                )
                return signed_bundle(net, replace(m, hashes=hashes, sealed=sealed))
            return None if lost and not isinstance(m, msg.Advertise) else m

        net.forward = forward
        net.run()

    return move


def other_hashes(net: Network, m: msg.Bundle) -> msg.Bundle:
    """Put the hashes of one holder in the place of another."""
    hashes = (*m.hashes[:2], m.hashes[3], *m.hashes[3:])
    return signed_bundle(net, replace(m, hashes=hashes))


def bad_tag(net: Network, m: msg.Bundle) -> msg.Bundle:
    """Seal nothing for the first holder."""
    return replace(m, sealed=(bytes(len(m.sealed[0])), *m.sealed[1:]))


def upload(change: Callable[[list[Any]], list[Any]]) -> Play:
    """Upload other chunks than were announced."""

    def changed(net: Network, m: msg.Masked) -> msg.Masked:
        net.spools[CHEAT].chunks = change(net.spools[CHEAT].chunks)
        return m

    return send_other(msg.Masked, changed)


def complain(net: Network, about: str = "") -> msg.Complaint:
    """Return a complaint of the cheat that ends its part, signed."""
    raw = msg.Complaint(CHEAT, Reason.BAD_TAG, about, True, b"")
    what = statements.complaint(net.context.h0, raw)
    return replace(raw, signature=net.keys[CHEAT].sign(what))


def not_enrolled(net: Network, m: msg.Advertise) -> msg.Advertise:
    """Put in a verification key of its own making."""
    return replace(m, verify_key=SigningKey.random(SeededRand(99)).public)


def other_survivors(net: Network, m: msg.Consent) -> msg.Consent:
    """Consent to a set of three."""
    return consent(net, CHEAT, survivors(net, net.ids[:3]))


def by_cheat(*reasons: Reason) -> frozenset[Rejection]:
    """Return rejections of the cheat's own messages."""
    return frozenset((CHEAT, reason, CHEAT) for reason in reasons)
