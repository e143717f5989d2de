"""More than one attempt: replays, restarts, and sums whose difference is one client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from choral.secagg import messages as msg
from choral.secagg.refusals import Reason
from choral.testing.secagg.attack import VICTIM, Attack, Play, beside, sign_context
from choral.testing.secagg.network import Network

_ALL: Final = tuple(f"c{i:03}" for i in range(4))
_LATE: Final = {"c001": 2, "c002": 2}
"""Too few vectors come: the attempt is aborted before anybody reveals a share."""


def _attempts(numbers: Sequence[int], pattern: dict[str, int]) -> Play:
    """Abort or end the first attempt, then begin the others."""

    def move(net: Network) -> None:
        net.drop(pattern)
        for number in numbers:
            net.begin(attempt=number)
            net.run()
            net.drop({})

    return move


def _rounds(*numbers: int) -> Play:
    """Sum several rounds over one base model."""

    def move(net: Network) -> None:
        for number in numbers:
            net.context = replace(net.context, round=number)
            net.expected = replace(net.expected, round=number)
            net.begin()
            net.run()

    return move


def _difference(net: Network) -> None:
    """Sum everybody but one client, then everybody."""
    net.drop({"c003": 2}).run()
    net.drop({}).begin(attempt=2)
    net.run()


def _two_rounds(net: Network) -> None:
    """Sum everybody over one model, then all but one client over the same model.

    Where clients answer one model twice in the same way, the difference is that client's vector.
    """
    net.sites = {name: replace(site, max_sums=1) for name, site in net.sites.items()}
    _rounds(1)(net)
    net.drop({"c003": 2})
    _rounds(2)(net)


def _restart(at: type) -> Play:
    """Let the victim's process restart before a message, and invite it again."""

    def again(net: Network) -> msg.Invitation:
        net.clients[VICTIM] = net.client(VICTIM)
        invitation: msg.Invitation = net.told[VICTIM][msg.Invitation]
        return invitation

    return beside(at, again)


def _two_open(at: type) -> Play:
    """Let the victim enter a later attempt, then go on with the earlier one."""

    def move(net: Network) -> None:
        later = sign_context(net, replace(net.context, attempt=2))

        def toward(client: str, m: Any) -> Any:
            if client == VICTIM and isinstance(m, at):
                net.client(VICTIM).receive(msg.encode(later))
            return m

        net.toward = toward
        net.run()

    return move


ATTEMPTS: Final = (
    Attack(
        "replayed attempt",
        "invites again to an attempt that was aborted",
        _attempts((1, 1), _LATE),
        (Reason.REPLAYED,),
        victims=_ALL,
        sums=False,
    ),
    Attack(
        "older attempt",
        "goes back to an attempt before the last",
        _attempts((2, 1), _LATE),
        (Reason.REPLAYED,),
        victims=_ALL,
        sums=False,
    ),
    Attack(
        "second sum of one round",
        "sums a round again, as another attempt",
        _attempts((1, 2), {}),
        (Reason.JOINED,),
        victims=_ALL,
        sums=False,
    ),
    Attack(
        "difference of two sums",
        "sums a round without one client, then with it",
        _difference,
        (Reason.JOINED,),
        victims=_ALL[:3],
        sums=False,
    ),
    Attack(
        "older round",
        "goes back to a round that is over",
        _rounds(2, 1),
        (Reason.REPLAYED,),
        victims=_ALL,
        sums=False,
    ),
    Attack(
        "third sum on one model",
        "sums one base model more often than the sites allow",
        _rounds(1, 2, 3),
        (Reason.MODEL_CAP,),
        victims=_ALL,
        sums=False,
    ),
    Attack(
        "difference of two rounds",
        "sums a model again in the next round, without one client, where sites allow one sum",
        _two_rounds,
        (Reason.MODEL_CAP,),
        victims=_ALL,
        sums=False,
    ),
    Attack(
        "second context",
        "invites the victim to another context in the same attempt",
        beside(msg.Roster, lambda net: sign_context(net, replace(net.context, deadline=2000))),
        (Reason.CHANGED_CONTEXT,),
    ),
    *(
        Attack(
            f"two open attempts at the {name}",
            "goes on with an attempt after the victim entered a later one",
            _two_open(kind),
            (Reason.SUPERSEDED,),
        )
        for name, kind in (("survivors", msg.Survivors), ("consents", msg.Consents))
    ),
    *(
        Attack(
            f"restart before the {name}",
            "invites a client again that lost its memory in the middle",
            _restart(kind),
            (Reason.REPLAYED, Reason.JOINED),
        )
        for name, kind in (
            ("shares", msg.Deliveries),
            ("survivors", msg.Survivors),
            ("consents", msg.Consents),
        )
    ),
    Attack(
        "restart before the result",
        "invites a client again that lost its memory after it unmasked",
        _restart(msg.Result),
        (Reason.REPLAYED, Reason.JOINED),
    ),
)
"""Attacks over several attempts."""
