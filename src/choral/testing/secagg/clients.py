"""Malicious clients: each loses its place at most, the culprit is named, and no sum is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np

from choral.secagg import messages as msg
from choral.secagg.messages import Kind
from choral.secagg.refusals import Reason
from choral.testing.secagg.attack import GRAPH, GRAPH_CLIENTS
from choral.testing.secagg.cheat import (
    CHEAT,
    Cheat,
    advertise,
    bad_dealer,
    bad_tag,
    by_cheat,
    complain,
    far_share,
    four_times,
    not_enrolled,
    other_hashes,
    other_survivors,
    reveal,
    send_both,
    send_other,
    signed_bundle,
    two_holders,
    upload,
    wrong_share,
)
from choral.testing.secagg.schedule import STEPS

_KINDS: Final = ("keys", "shares", "vector", "consent", "answer")
_LENGTHS: Final[tuple[tuple[str, Callable[[list[Any]], list[Any]]], ...]] = (
    ("a chunk too few", lambda chunks: chunks[:-1]),
    ("no first chunk", lambda chunks: chunks[1:]),
    ("nothing", lambda chunks: []),
    ("an element more", lambda chunks: [*chunks, np.zeros(1, np.uint32)]),
    ("an element of another ring", lambda chunks: [*chunks, np.zeros(1, np.uint16)]),
    ("a chunk of two dimensions", lambda chunks: [*chunks, np.zeros((1, 1), np.uint32)]),
    ("a changed element", lambda chunks: [chunks[0] + np.uint32(1), *chunks[1:]]),
)

CHEATS: Final[tuple[Cheat, ...]] = (
    *(
        Cheat(
            name,
            "reveals something else than it was dealt",
            wrong_share(**changes),
            by_cheat(Reason.BAD_SHARE),
        )
        for name, changes in (
            ("bad share", {"share": bytes(36)}),
            ("bad salt", {"salt": bytes(32)}),
            ("other kind", {"kind": Kind.MASK_KEY}),
        )
    ),
    Cheat(
        "two bad holders",
        "reveals a bad share, as does another: fewer than t good ones are left",
        two_holders,
        frozenset((name, Reason.BAD_SHARE, name) for name in (CHEAT, "c002")),
        abandoned="too_few_shares_of c000",
    ),
    Cheat(
        "share twice",
        "reveals one share twice",
        reveal(lambda given: (*given, given[0])),
        by_cheat(Reason.REPEATED_ID),
    ),
    Cheat(
        "shares held back",
        "reveals no share of one dealer",
        reveal(lambda given: given[1:]),
        by_cheat(Reason.BAD_SHARE),
    ),
    Cheat(
        "share of nobody",
        "reveals a share of a dealer that there is not",
        reveal(lambda given: (*given, replace(given[0], dealer="x"))),
        by_cheat(Reason.NOT_A_DEALER),
    ),
    Cheat(
        "share it never had",
        "reveals a share of a dealer that is no neighbour",
        send_other(msg.Unmask, far_share),
        by_cheat(Reason.NOT_A_NEIGHBOUR),
        clients=GRAPH_CLIENTS,
        options=GRAPH,
    ),
    *(
        Cheat(
            name,
            "shares out other secrets than it committed to",
            bad_dealer(lost=lost),
            # its own share, of the true secret, no longer fits what it signed
            frozenset() if lost else by_cheat(Reason.BAD_SHARE),
            abandoned="bad_dealer",
            blamed=(CHEAT,),
        )
        for name, lost in (("bad dealer", False), ("bad dealer, lost", True))
    ),
    Cheat(
        "hash of another share",
        "signs another share than it sealed for one holder",
        send_other(msg.Bundle, other_hashes),
        accusations=frozenset({("c002", Reason.BAD_SHARE, CHEAT)}),
    ),
    Cheat(
        "bad tag",
        "seals a share that does not open",
        send_other(msg.Bundle, bad_tag),
        accusations=frozenset({("c000", Reason.BAD_TAG, CHEAT)}),
    ),
    Cheat(
        "too few shares",
        "signs fewer shares than it has holders",
        send_other(msg.Bundle, lambda net, m: signed_bundle(net, replace(m, hashes=m.hashes[:-1]))),
        by_cheat(Reason.BAD_SHARE),
        counted=False,
    ),
    *(
        Cheat(
            name,
            "uploads something else than it announced",
            upload(change),
            by_cheat(Reason.WRONG_VECTOR),
            counted=False,
        )
        for name, change in _LENGTHS
    ),
    *(
        Cheat(
            f"{_KINDS[step]} four times",
            "sends one message four times, which must not count for four clients",
            send_other(kind, four_times),
        )
        for step, kind in enumerate(STEPS)
    ),
    Cheat(
        "two vectors",
        "uploads one vector and announces another",
        send_both(msg.Masked, lambda _, m: replace(m, digest=bytes(32))),
        by_cheat(Reason.SECOND_VECTOR),
    ),
    Cheat(
        "two pairs of keys",
        "advertises other keys after the first",
        send_both(msg.Advertise, lambda _, m: replace(m, mask=bytes([9]) * 32)),
        frozenset(),
    ),
    Cheat(
        "two bundles",
        "deals other shares after the first",
        send_both(msg.Bundle, lambda _, m: replace(m, commitment=bytes(32))),
        frozenset(),
    ),
    Cheat(
        "other survivors",
        "consents to another set than it was shown",
        send_other(msg.Consent, other_survivors),
        by_cheat(Reason.BAD_SIGNATURE),
    ),
    *(
        Cheat(
            f"{_KINDS[step]} without a signature",
            "sends a message under a signature that does not fit",
            send_other(kind, lambda _, m: replace(m, signature=bytes(64))),
            by_cheat(Reason.BAD_SIGNATURE),
            counted=step > 2,
        )
        for step, kind in enumerate(STEPS)
    ),
    Cheat(
        "another's name",
        "consents in the name of another",
        send_other(msg.Consent, lambda _, m: replace(m, client="c002")),
        by_cheat(Reason.MALFORMED),
    ),
    *(
        Cheat(
            name,
            "advertises a key with which a secret would be known to all",
            advertise(lambda _, m, public=public: replace(m, transport=public)),  # type: ignore[misc]
            by_cheat(Reason.BAD_KEY),
            counted=False,
        )
        for name, public in (
            ("key of zeros", bytes(32)),
            ("key of order 1", b"\1" + bytes(31)),
            ("key not canonical", b"\xff" * 32),
        )
    ),
    Cheat(
        "key of another client",
        "advertises the key of another",
        advertise(
            lambda net, m: replace(m, mask=net.said["c000"][msg.Advertise].mask),
        ),
        by_cheat(Reason.REPEATED_KEY),
        counted=False,
    ),
    Cheat(
        "key that is not enrolled",
        "signs under a key of its own making",
        advertise(not_enrolled),
        by_cheat(Reason.NOT_ENROLLED),
        counted=False,
    ),
    *(
        Cheat(
            f"complaint instead of {_KINDS[step]}",
            "leaves with a complaint",
            send_other(kind, lambda net, _: complain(net)),
            accusations=frozenset({(CHEAT, Reason.BAD_TAG, "")}),
            counted=step > 2,
        )
        for step, kind in enumerate(STEPS)
    ),
    *(
        Cheat(
            f"complaint after {_KINDS[step]}",
            "complains once it has answered, accuses another, and goes on",
            send_both(kind, lambda net, _: complain(net, "c000")),
            accusations=frozenset({(CHEAT, Reason.BAD_TAG, "c000")}),
        )
        for step, kind in enumerate(STEPS)
    ),
    Cheat(
        "complaint about a stranger",
        "accuses somebody who is not in the cohort",
        send_both(msg.Bundle, lambda net, _: complain(net, "stranger")),
        accusations=frozenset({(CHEAT, Reason.BAD_TAG, "")}),
    ),
    Cheat(
        "complaint without a signature",
        "accuses another and does not sign it",
        send_both(msg.Bundle, lambda net, _: replace(complain(net, "c002"), signature=b"")),
        accusations=frozenset({(CHEAT, Reason.BAD_TAG, "")}),
    ),
)
"""Every cheat of a client."""
