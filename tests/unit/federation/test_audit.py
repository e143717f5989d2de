"""The audit trail: whatever is changed in it is found."""

import copy
import dataclasses

import numpy as np
import pytest

from choral.core.errors import TamperedAudit
from choral.core.ports import Record
from choral.crypto.signatures import SigningKey
from choral.federation.audit import (
    CHECKPOINT,
    Head,
    check,
    checkpoint,
    entry,
    follow,
    pseudonym,
    pseudonym_key,
)
from choral.system import SystemRand

KEY = SigningKey.random(SystemRand())
OTHER = SigningKey.random(SystemRand())


def trail(entries=24, *, every=8, key=KEY):
    """A trail, with a checkpoint behind every few entries."""
    head, records = Head(), []
    for number in range(entries):
        fields = {"run": f"r{number % 3}", "round": number, "epsilon": number / 7}
        record, head = entry(head, "round.committed", fields)
        records.append(record)
        if number % every == every - 1:
            record, head = entry(head, CHECKPOINT, checkpoint(head, key))
            records.append(record)
    return records, head


def test_an_honest_trail_has_no_fault():
    records, head = trail()
    found = check(records, keys=[KEY.public], witnessed=[Head(), head])
    assert found.faults == ()
    assert (found.head, found.signed, found.checkpoints) == (head, 26, 3)
    assert head == Head.decode(head.encode())


def rechained(records):
    """What somebody makes who can write everything, but has not the coordinator's key."""
    head, made = Head(), []
    for old in records:
        fields = {k: v for k, v in old.body.items() if k not in ("number", "previous", "hash")}
        record, head = entry(head, old.kind, fields)
        made.append(record)
    return made


class Draw:
    """Random choices."""

    def __init__(self, seed):
        self.rng = np.random.Generator(np.random.SFC64(seed))

    def choice(self, what):
        return what[int(self.rng.integers(len(what)))]

    def random(self):
        return float(self.rng.random())


def changed(draw, records):
    """A trail with one random change, drop, swap, copy or cut."""
    records = copy.deepcopy(records)
    at = draw.choice(range(len(records)))
    kind = draw.choice(["field", "kind", "drop", "swap", "copy", "cut", "chain", "grow"])
    body = records[at].body
    if kind in ("field", "chain"):
        name = draw.choice(sorted(body))
        old = body[name]
        body[name] = old + 1 if isinstance(old, int | float) else draw.choice(["", old[::-1] + "0"])
    elif kind == "kind":
        records[at] = Record(records[at].kind + "x", body)
    elif kind == "drop":
        del records[at]
    elif kind == "swap":
        other = draw.choice([i for i in range(len(records)) if i != at])
        records[at], records[other] = records[other], records[at]
    elif kind == "copy":
        records.insert(at, records[at])
    elif kind == "cut":
        records = records[:at]
    elif kind == "grow":
        body["more"] = draw.random()
    if kind in ("chain", "grow") or draw.random() < 0.3:
        rewritten = rechained(records)
        if rewritten != records:
            return kind + "+rechained", rewritten
    return kind, records


def test_a_thousand_random_changes_are_all_found():
    """With the coordinator's key and one witness of the head, nothing goes unseen."""
    records, head = trail()
    draw = Draw(7)
    kinds = {}
    while sum(kinds.values()) < 1000:
        kind, bad = changed(draw, records)
        if bad == records:  # chained anew, it is what it was
            continue
        found = check(bad, keys=[KEY.public], witnessed=[head])
        assert found.faults, (kind, bad)
        kinds[kind] = kinds.get(kind, 0) + 1
    assert len(kinds) >= 10, kinds


def test_changes_before_the_last_checkpoint_need_no_witness():
    """All but a cut: who cuts the trail leaves an honest, shorter one."""
    records, _ = trail()
    draw = Draw(8)
    for _ in range(300):
        kind, bad = changed(draw, records[:-1])
        if "cut" in kind or bad == records[: len(bad)]:
            continue
        assert check([*bad, records[-1]], keys=[KEY.public]).faults, kind


def test_a_whole_trail_with_another_key_is_found():
    records, _ = trail(key=OTHER)
    assert check(records).faults == ()
    assert "no key of this coordinator" in check(records, keys=[KEY.public]).faults[0]


def test_a_cut_is_found_by_a_witness_alone():
    records, head = trail()
    cut = records[:9]
    assert check(cut, keys=[KEY.public]).faults == ()
    found = check(cut, keys=[KEY.public], witnessed=[Head(9, cut[-1].body["hash"]), head])
    assert found.faults == ("a witness saw 27 entries, and there are 9",)


def test_every_fault_is_named_and_not_the_first_alone():
    records, _ = trail()
    records[3].body["round"] = 99
    del records[15]
    faults = check(records, keys=[KEY.public]).faults
    assert faults[0] == "entry 3 was edited"
    assert any(f.startswith("entry 15 does not follow") for f in faults)


def test_an_entry_follows_one_head_alone():
    record, head = entry(Head(), "a", {})
    assert follow(Head(), record) == head
    with pytest.raises(TamperedAudit, match="does not follow"):
        follow(dataclasses.replace(head, length=0), record)


def test_pseudonyms_tell_nothing_without_the_key():
    key = pseudonym_key(KEY)
    assert pseudonym(key, "a") == pseudonym(pseudonym_key(KEY), "a") != pseudonym(key, "b")
    assert pseudonym(pseudonym_key(OTHER), "a") != pseudonym(key, "a")
