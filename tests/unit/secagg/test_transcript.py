"""One attempt of four clients, one of them lost before its upload, byte for byte.

A change here is a change of the protocol: it needs a new version in the context.
"""

import hashlib
import json
from pathlib import Path

from choral.secagg import messages as msg

FILE = Path(__file__).parent / "vectors" / "transcript.json"


def played(world):
    return world(4, size=7, chunk=4).drop({"c002": 2}).run()


def as_json(w):
    return {
        "about": "4 clients, suite full, m = 32, c002 lost before its upload, SeededRand(7)",
        "h0": w.context.h0.hex(),
        "h1": w.server._cohort.h1.hex(),
        "messages": [[way, client, raw.hex()] for way, client, raw in w.log],
        "masked": {
            name: b"".join(bytes(w.encoding.ring.pack(c)) for c in spool.chunks).hex()
            for name, spool in w.spools.items()
        },
        "total": bytes(w.encoding.ring.pack(w.summed.total)).hex(),
    }


def test_the_transcript_is_the_frozen_one(world):
    w = played(world)
    w.assert_exact()
    assert as_json(w) == json.loads(FILE.read_text())


def test_the_frozen_messages_decode_and_hold_together(world):
    frozen = json.loads(FILE.read_text())
    messages = [msg.decode(bytes.fromhex(raw)) for _, _, raw in frozen["messages"]]
    assert {type(m) for m in messages} >= {
        msg.Invitation, msg.Advertise, msg.Roster, msg.Bundle, msg.Deliveries, msg.Masked,
        msg.Survivors, msg.Consent, msg.Consents, msg.Unmask, msg.Result,
    }  # fmt: skip
    for m in messages:
        if isinstance(m, msg.Masked):
            content = bytes.fromhex(frozen["masked"][m.client])
            assert hashlib.sha256(content).digest() == m.digest
        if isinstance(m, msg.Result):
            assert hashlib.sha256(bytes.fromhex(frozen["total"])).digest() == m.total
