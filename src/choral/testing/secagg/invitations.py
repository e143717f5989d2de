"""R0: contexts that are not the client's, or too weak."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from choral.secagg import messages as msg
from choral.secagg.parameters import Suite
from choral.secagg.refusals import Reason
from choral.testing.secagg.attack import (
    GRAPH,
    GRAPH_CLIENTS,
    VICTIM,
    Attack,
    Play,
    alter,
    prepared,
    relist,
    sign_context,
    thin_graph,
)
from choral.testing.secagg.network import Network

OTHER: Final = bytes([9]) * 32


def _context(**changes: Any) -> Play:
    """Show the victim another context, signed."""
    return alter(msg.Invitation, lambda net, m: sign_context(net, replace(m.context, **changes)))


def _encoding(**changes: Any) -> Play:
    """Show the victim another encoding, signed."""

    def change(net: Network, m: msg.Invitation) -> msg.Invitation:
        encoding = replace(m.context.encoding, **changes)
        return sign_context(net, replace(m.context, encoding=encoding))

    return alter(msg.Invitation, change)


def _parameters(**changes: Any) -> Play:
    """Show the victim other parameters, signed."""

    def change(net: Network, m: msg.Invitation) -> msg.Invitation:
        parameters = replace(m.context.parameters, **changes)
        return sign_context(net, replace(m.context, parameters=parameters))

    return alter(msg.Invitation, change)


def _site(**changes: Any) -> Play:
    """Give the victim's site another policy, then invite it as everybody."""

    def move(net: Network) -> None:
        net.sites[VICTIM] = replace(net.sites[VICTIM], **changes)
        net.begin()

    return move


def _whole(net: Network) -> None:
    net.run()


def _consistent_lie(net: Network) -> None:
    """Serve the victim another model and a context that fits it; list it among the others."""
    net.expectations[VICTIM] = replace(net.expected, models=(OTHER,))
    net.begin()

    def toward(client: str, m: Any) -> Any:
        if client == VICTIM and isinstance(m, msg.Invitation):
            return sign_context(net, replace(m.context, models=(OTHER,)))
        if isinstance(m, msg.Roster):
            return _with_victim(net, m)
        return m

    net.toward = toward
    net.run()


def _with_victim(net: Network, m: msg.Roster) -> msg.Roster:
    mine = msg.Member(0, net.said[VICTIM][msg.Advertise], ())
    return relist(net, m, [mine, *m.members])


INVITATIONS: Final = (
    Attack(
        "other version",
        "names a version of the protocol that nobody speaks",
        _context(version=2),
        (Reason.VERSION,),
    ),
    Attack("other run", "invites to another run", _context(run_id="other"), (Reason.OTHER_RUN,)),
    Attack("other round", "invites to another round", _context(round=2), (Reason.OTHER_RUN,)),
    Attack("round zero", "invites to no round", _context(round=0), (Reason.MALFORMED,)),
    Attack(
        "other model",
        "sums updates of a model that the client does not hold",
        _context(models=(OTHER,)),
        (Reason.OTHER_MODEL,),
    ),
    Attack(
        "a model for one client",
        "serves the victim another model with a context that fits it, and lists it with the others",
        _consistent_lie,
        (Reason.BAD_SIGNATURE,),
        victims=("c001", "c002", "c003"),
        sums=False,
    ),
    Attack("other plan", "sums under another plan", _context(plan=OTHER), (Reason.OTHER_PLAN,)),
    Attack(
        "other authority",
        "names an authority of its own",
        _context(authority=OTHER),
        (Reason.OTHER_AUTHORITY,),
    ),
    Attack("floor of one", "lowers n_min to 1", _context(min_cohort=1), (Reason.SMALL_COHORT,)),
    Attack(
        "floor below the site's",
        "keeps an n_min that is below the victim's own",
        prepared(_site(min_cohort=5), _whole),
        (Reason.SMALL_COHORT,),
    ),
    Attack("larger clip", "doubles C", _encoding(clip=2.0), (Reason.OTHER_ENCODING,)),
    Attack("lowered clip", "halves C", _encoding(clip=0.5), (Reason.OTHER_ENCODING,)),
    Attack("other length", "asks for an element more", _encoding(size=6), (Reason.OTHER_ENCODING,)),
    Attack(
        "m of 16", "lowers m so that a sum wraps", _encoding(modulus_bits=16), (Reason.OVERFLOW,)
    ),
    Attack("m of 24", "lowers m", _encoding(modulus_bits=24), (Reason.OTHER_ENCODING,)),
    Attack(
        "m of 31", "names a ring that there is not", _encoding(modulus_bits=31), (Reason.OVERFLOW,)
    ),
    Attack(
        "other generator",
        "names an unknown mask generator",
        _encoding(generator=9),
        (Reason.OVERFLOW,),
    ),
    Attack(
        "weight outside",
        "looks for the weight beyond the vector",
        _encoding(weight_at=7),
        (Reason.OTHER_ENCODING,),
    ),
    Attack("lowered t", "lowers t", _parameters(t=2), (Reason.WEAK_PARAMETERS,)),
    Attack(
        "t of one", "lets one share give a secret back", _parameters(t=1), (Reason.WEAK_PARAMETERS,)
    ),
    Attack("lowered k", "leaves out neighbours", _parameters(k=2), (Reason.WEAK_PARAMETERS,)),
    Attack(
        "endless cohort",
        "names a cohort beyond the largest",
        _parameters(clients=100_001),
        (Reason.WEAK_PARAMETERS,),
    ),
    Attack(
        "thin graph",
        "asks for a random graph on four",
        _parameters(suite=Suite.GRAPH, k=2, t=2),
        (Reason.WEAK_PARAMETERS,),
    ),
    Attack(
        "nobody colludes",
        "plans a random graph as if no client could collude",
        prepared(_site(min_corrupt=0.05), _whole),
        (Reason.WEAK_PARAMETERS,),
        clients=GRAPH_CLIENTS,
        options=GRAPH,
    ),
    Attack(
        "beacon withheld",
        "seeds the graph itself where the site waits for a public value",
        prepared(
            lambda net: net.expectations.update({VICTIM: replace(net.expected, beacon=b"public")}),
            prepared(lambda net: net.begin(), _whole),
        ),
        (Reason.WRONG_BEACON,),
        clients=GRAPH_CLIENTS,
        options=GRAPH,
    ),
    Attack(
        "beacon made up",
        "signs another beacon value than the public one",
        prepared(
            lambda net: net.expectations.update({VICTIM: replace(net.expected, beacon=b"public")}),
            prepared(lambda net: net.begin(), _whole),
        ),
        (Reason.WRONG_BEACON,),
        clients=GRAPH_CLIENTS,
        options={"parameters": thin_graph(beacon=True), "beacon": b"chosen"},
    ),
    Attack(
        "suite not allowed",
        "invites to a suite that the victim's policy does not name",
        prepared(_site(suites=frozenset({Suite.GRAPH})), _whole),
        (Reason.SUITE,),
    ),
    Attack(
        "downgrade",
        "invites to the semi-honest suite, which needs no signatures",
        prepared(_site(suites=frozenset({Suite.FULL})), _parameters(suite=Suite.SEMI_HONEST)),
        (Reason.SUITE,),
    ),
    Attack(
        "unsigned context",
        "sends a context under no signature",
        alter(msg.Invitation, lambda _, m: replace(m, signature=b"")),
        (Reason.BAD_SERVER_SIGNATURE,),
    ),
    Attack(
        "forged context",
        "sends a context under a signature that does not fit",
        alter(msg.Invitation, lambda _, m: replace(m, signature=bytes(64))),
        (Reason.BAD_SERVER_SIGNATURE,),
    ),
)
"""Attacks on R0."""
