"""Four naive variants of the protocol, each with an attack that reads a private vector out of it.

They are the positive control of this suite: an attack that reads nothing from Choral's machines
proves little unless it reads everything where the protection is taken away.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np

from choral.core.keys import Key
from choral.crypto.agreement import AgreementKey
from choral.crypto.ring import RingVector
from choral.crypto.secret import Secret
from choral.crypto.signatures import SigningKey
from choral.secagg import commands as cmd
from choral.secagg import masking, statements
from choral.secagg import messages as msg
from choral.secagg.client import Client, Phase
from choral.secagg.context import Context
from choral.secagg.context import h1 as h1_of
from choral.secagg.enrolment import Authority
from choral.secagg.messages import Kind
from choral.secagg.refusals import Reason
from choral.secagg.shares import Held
from choral.testing.fakes import SeededRand
from choral.testing.secagg.attack import VICTIM, relist, survivors
from choral.testing.secagg.monitor import Monitor
from choral.testing.secagg.network import Network
from choral.testing.secagg.parties import ClientFactory
from choral.testing.secagg.spoils import collude, opened, revealed, secret_of, unmasked
from choral.testing.secagg.twister import STATE, TwisterMask, predict


@dataclass(frozen=True, slots=True)
class Naive:
    """A naive variant and the attack on it.

    Attributes:
        name: What it is called.
        fault: What it does wrong.
        attack: Runs an attempt and returns the vector of `c000`, or None.
        network: Returns the network, with the fault or without it.
        refusals: What Choral's clients say to the same attack. Empty where it is passive: there
            is nothing to refuse, and it must read nothing.
        patch: Puts the fault in where it is not a client's.
    """

    name: str
    fault: str
    attack: Callable[[Network], RingVector | None]
    network: Callable[[bool], Network]
    refusals: tuple[Reason, ...]
    patch: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


@dataclass(frozen=True, slots=True)
class Played:
    """What came of one attack.

    Attributes:
        read: The vector that the attacker computed, or None.
        net: The network afterwards.
    """

    read: RingVector | None
    net: Network

    @property
    def exact(self) -> bool:
        """Whether the attacker has the victim's vector, to the bit."""
        return self.read is not None and np.array_equal(self.read, self.net.vectors[VICTIM])


def play(variant: Naive, *, naive: bool) -> Played:
    """Play the attack against the naive variant, or against Choral's machines."""
    with variant.patch() if naive else contextlib.nullcontext():
        net = variant.network(naive)
        return Played(variant.attack(net), net)


def _network(n: int, *, client: ClientFactory = Client, **options: Any) -> Network:
    """Return a network with private vectors, whose monitor only takes note."""
    net = Network(n, client=client, monitor=Monitor(halt=False), **options)
    rng = Key.root(5).fold("private").rng()
    high = 2**net.encoding.bits
    for name in net.ids:
        net.vectors[name] = rng.integers(0, high, net.size).astype(net.encoding.ring.dtype)
    return net


# --- masks from a generator that is not cryptographic ---------------------------------------------

_PADDING: Final = STATE + 16
"""Elements that everybody knows: zeros of a padded layer, say."""


@contextlib.contextmanager
def _twister_masks() -> Iterator[None]:
    """Let both machines mask with the Mersenne Twister."""
    names = vars(masking)
    sound = names["Mask"]
    names["Mask"] = TwisterMask
    try:
        yield
    finally:
        names["Mask"] = sound


def _padded(_: bool) -> Network:
    net = _network(3, size=1000, chunk=1000)
    for vector in net.vectors.values():
        vector[:_PADDING] = 0
    return net


def _predict_mask(net: Network) -> RingVector | None:
    """Follow the protocol; one client of three colludes, which the threshold allows.

    There is nothing to refuse here. A server that names a generator of its own is refused at R0:
    "other generator" of the attacks.

    The server rightly learns the victim's self mask, the colluding client knows its mask with the
    victim, and so one mask is left. It is the victim's vector where that is zero.
    """
    friend = collude(net, "c002")
    net.run()
    seed = secret_of(revealed(net, VICTIM, Kind.SELF_MASK), threshold=net.parameters.t)
    if seed is None:
        return None
    shared = friend.mask.exchange(net.said[VICTIM][msg.Advertise].mask)
    rest = unmasked(net, VICTIM, h1=net.h1, seed=seed, pairs=[("c002", shared)])
    mask = predict(rest[:_PADDING].astype(np.uint32), net.size - _PADDING)
    if mask is None:
        return None
    read = rest.copy()
    read[:_PADDING] = 0
    read[_PADDING:] -= mask  # c000 adds its mask with c001
    return read


# --- both shares on request -----------------------------------------------------------------------


class Obliging:
    """A client that gives out the shares it is asked for, as often as it is asked.

    Args:
        site: As for `Client`.
        expected: As for `Client`.
        **ports: As for `Client`.
    """

    def __init__(self, site: Any, expected: Any, **ports: Any) -> None:
        self._inner = Client(site, expected, **ports)
        self._site = site
        self._kept: dict[str, bytes] = {}
        self._h1 = b""

    def receive(self, event: Any) -> cmd.ClientCommands:
        """Do as `Client`, but for a second survivor set."""
        m = msg.decode(event) if isinstance(event, bytes) else event
        if isinstance(m, msg.Survivors) and self._inner.phase is Phase.UNMASKED:
            return self._reveal(m)
        commands = self._inner.receive(event)
        if self._inner.phase is Phase.MASKED:
            self._kept = {name: bytes(held._plain) for name, held in self._inner._held.items()}
            self._h1 = self._inner._view.h1 if self._inner._view else b""
        return commands

    def _reveal(self, m: msg.Survivors) -> cmd.ClientCommands:
        names = sorted(self._kept)  # of the complete graph, as the standings
        given = tuple(
            Held(name, self._kept[name]).reveal(Kind.SELF_MASK if standing.alive else Kind.MASK_KEY)
            for name, standing in zip(names, m.standings, strict=True)
        )
        answer = msg.Unmask(self._site.client, given, b"")
        what = statements.unmask(self._h1, answer)
        signature = statements.signature(self._site.key, what)
        return (cmd.Send(replace(answer, signature=signature)),)


def _ask_for_both(net: Network) -> RingVector | None:
    """Sum as usual, then tell everybody but the victim that it is dead."""

    def toward(client: str, m: Any) -> Any:
        return None if isinstance(m, msg.Result) else m

    net.toward = toward
    net.run()
    for name in net.ids[1:]:
        net.deliver(name, survivors(net, net.ids[1:]))
    t = net.parameters.t
    seed = secret_of(revealed(net, VICTIM, Kind.SELF_MASK), threshold=t)
    key = secret_of(revealed(net, VICTIM, Kind.MASK_KEY), threshold=t)
    return _with_both(net, seed, key)


def _with_both(net: Network, seed: Secret | None, key: Secret | None) -> RingVector | None:
    """Take all masks off the victim's vector with both of its secrets."""
    if seed is None or key is None or not net.spools[VICTIM].chunks:
        return None
    mine = AgreementKey(key)
    pairs = [(n, mine.exchange(net.said[n][msg.Advertise].mask)) for n in net.ids[1:]]
    return unmasked(net, VICTIM, h1=net.h1, seed=seed, pairs=pairs)


# --- keys without authentication ------------------------------------------------------------------


def _in_the_middle(net: Network) -> RingVector | None:
    """Show the victim a cohort that the server plays itself."""
    rand = SeededRand(99)
    authority = Authority(SigningKey.random(rand))
    transport = {name: AgreementKey.random(rand) for name in net.ids[1:]}
    mask = {name: AgreementKey.random(rand) for name in net.ids[1:]}
    shown: list[msg.Roster] = []

    def made(name: str) -> msg.Advertise:
        key = SigningKey.random(rand) if net.signed else None
        public = key.public if key else b""
        enrolment = authority.enrol(name, public) if key else b""
        advert = msg.Advertise(
            name, transport[name].public, mask[name].public, public, enrolment, b""
        )
        what = statements.advertise(net.context.h0, advert)
        return replace(advert, signature=statements.signature(key, what))

    def toward(client: str, m: Any) -> Any:
        if client == VICTIM and isinstance(m, msg.Roster):
            members = [m.members[0], *(msg.Member(0, made(name), ()) for name in net.ids[1:])]
            shown.append(relist(net, m, members))
            return shown[-1]
        return m

    net.toward = toward
    net.run()
    bundle, spool = net.said[VICTIM].get(msg.Bundle), net.spools[VICTIM]
    if bundle is None or not spool.chunks:
        return None
    h1 = h1_of(net.context.h0, count=shown[0].count, root=shown[0].root, beacon=b"")
    victim = net.said[VICTIM][msg.Advertise]
    shares = [
        opened(bundle, roster=net.ids, holder=n, pair=key.exchange(victim.transport), h1=h1)
        for n, key in transport.items()
    ]
    seed = secret_of([share[Kind.SELF_MASK] for share in shares], threshold=net.parameters.t)
    if seed is None:
        return None
    pairs = [(name, key.exchange(victim.mask)) for name, key in mask.items()]
    return unmasked(net, VICTIM, h1=h1, seed=seed, pairs=pairs)


# --- a threshold that the server sets -------------------------------------------------------------


class Unchecked(Context):
    """A context that nobody checks."""

    def check(self) -> None:
        """Find nothing."""

    @staticmethod
    def of(context: Context) -> Unchecked:
        """Return the same context, unchecked."""
        return Unchecked(**{f.name: getattr(context, f.name) for f in fields(context)})


class Obedient:
    """A client that takes whatever parameters the server sets.

    Args:
        site: As for `Client`.
        expected: As for `Client`.
        **ports: As for `Client`.
    """

    def __init__(self, site: Any, expected: Any, **ports: Any) -> None:
        self._inner = Client(site, expected, **ports)

    def receive(self, event: Any) -> cmd.ClientCommands:
        """Do as `Client`, but for the check of the context."""
        m: Any = msg.decode(event) if isinstance(event, bytes) else event
        if isinstance(m, msg.Invitation):
            m = replace(m, context=Unchecked.of(m.context))
        return self._inner.receive(m)


def _lower_threshold(net: Network) -> RingVector | None:
    """Set t = 2 for a cohort of six, where two may collude, and open their shares."""
    weak = replace(net.context, parameters=replace(net.parameters, t=2))
    net.context = Unchecked.of(weak)
    net.begin()
    friends = {name: collude(net, name) for name in net.ids[4:]}
    net.run()
    bundle = net.said[VICTIM].get(msg.Bundle)
    if bundle is None:
        return None
    victim = net.said[VICTIM][msg.Advertise].transport
    shares = [
        opened(
            bundle,
            roster=net.ids,
            holder=name,
            pair=rand.transport.exchange(victim),
            h1=net.h1,
        )
        for name, rand in friends.items()
    ]
    secrets = [secret_of([s[kind] for s in shares], threshold=2) for kind in Kind]
    return _with_both(net, *secrets)


NAIVE: Final[tuple[Naive, ...]] = (
    Naive(
        "twister masks",
        "masks come from the Mersenne Twister",
        _predict_mask,
        _padded,
        (),
        _twister_masks,
    ),
    Naive(
        "both shares on request",
        "a holder reveals both kinds of share of one dealer, in two answers",
        _ask_for_both,
        lambda naive: _network(4, client=Obliging if naive else Client),
        (Reason.TWO_SURVIVOR_SETS,),
    ),
    Naive(
        "unauthenticated keys",
        "keys travel without signatures: the semi-honest suite, before an active server",
        _in_the_middle,
        lambda naive: _network(4, semi_honest=naive),
        (Reason.NOT_ENROLLED,),
    ),
    Naive(
        "threshold set by the server",
        "a client shares its secrets with the threshold that it is told",
        _lower_threshold,
        lambda naive: _network(6, client=Obedient if naive else Client),
        (Reason.WEAK_PARAMETERS,),
    ),
)
"""Every naive variant."""
