"""A plan comes back as it was, and no other bytes are read as one."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choral.core.aggregation import Secure
from choral.core.canonical import canonical_json
from choral.core.errors import Malformed, TransferError, WrongDigest
from choral.core.plan import RecordPrivacy
from choral.wire.plans import MAX_PLAN_BYTES, plan_from_json, plan_to_json


@pytest.fixture(params=["plain_plan", "secure_plan"])
def plan(request):
    return request.getfixturevalue(request.param)


def test_the_bytes_have_the_plans_digest(plan):
    assert hashlib.sha256(plan_to_json(plan)).hexdigest() == plan.digest


def test_a_plan_comes_back(plan):
    back = plan_from_json(plan_to_json(plan), digest=plan.digest)
    assert back == plan
    assert type(back.aggregation) is type(plan.aggregation)
    assert back.digest == plan.digest
    assert back.objective.mu == plan.mu


@pytest.mark.parametrize("rule", [None, "median"])
def test_a_rule_is_a_name_or_none_or_an_object(secure_plan, rule):
    secure = replace(secure_plan, aggregation=replace(secure_plan.aggregation, rule=rule))
    assert plan_from_json(plan_to_json(secure)) == secure


def test_defaults_of_secure_terms_travel(secure_plan):
    secure = replace(secure_plan, aggregation=Secure(modulus_bits=24))
    assert plan_from_json(plan_to_json(secure)) == secure


def test_another_plan_than_agreed_is_refused(plan):
    with pytest.raises(WrongDigest, match=f"expected {'0' * 64}"):
        plan_from_json(plan_to_json(plan), digest="0" * 64)
    with pytest.raises(WrongDigest):
        plan_from_json(plan_to_json(replace(plan, goal=5)), digest=plan.digest)


def paths(value, at=()):
    """Every place in a JSON object."""
    for name, inner in value.items():
        yield (*at, name)
        if isinstance(inner, dict) and name != "rule":
            yield from paths(inner, (*at, name))


def with_value(body, path, value):
    body = json.loads(json.dumps(body))
    inner = body
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return body


def refused(body):
    raw = body if isinstance(body, bytes) else canonical_json(body)
    with pytest.raises(Malformed) as caught:
        plan_from_json(raw)
    return caught.value.message


ODD = [[], {}, "", "x", -1, True, 0.5, "x" * 300, "\x1b", [[["a"]]], [["a", "b"]], {"kind": "odd"}]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_no_field_takes_what_it_is_not(plan, odd):
    """Each field in turn gets a value; it is refused, or it is one that the plan can have."""
    body = plan.as_json()
    for path in paths(body):
        raw = canonical_json(with_value(body, path, odd))
        try:
            taken = plan_from_json(raw)
        except TransferError:
            continue
        assert plan_to_json(taken) == raw
        allowed = {
            "x": {"run_id", "task", "rule"},
            "True": {"shuffle"},
            "0.5": {
                *("lr", "mu", "deadline_s", "range", "weight_unit", "weight_cap"),
                *("corrupt", "dropout", "test_fraction"),
            },
            "[]": {"metrics"},
            "": {"arguments", "key"},
            "{}": {"arguments"},
        }
        assert path[-1] in allowed.get(str(odd), set()), (path, odd)


def test_every_key_is_needed(plan):
    body = plan.as_json()
    for path in paths(json.loads(canonical_json(body))):
        short = with_value(json.loads(canonical_json(body)), path, None)
        inner = short
        for name in path[:-1]:
            inner = inner[name]
        del inner[path[-1]]
        message = refused(short)
        assert "missing" in message or path == ("aggregation", "kind")


def test_an_unknown_key_is_refused(plan):
    body = plan.as_json()
    for at in ((), ("local",), ("aggregation",), ("encoding",)):
        message = refused(with_value(body, (*at, "zeal"), 1))
        assert message.endswith("the key 'zeal' is unknown")
    assert "'objective' is unknown" in refused(body | {"objective": {}})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("round",), 0),
        (("round",), 2**32),
        (("attempt",), 0),
        (("goal",), 2),  # below the quorum
        (("quorum",), 0),
        (("deadline_s",), 0.0),
        (("deadline_s",), 600),  # a whole number is another spelling
        (("mu",), -0.5),
        (("weighting",), "none"),
        (("model_sha256",), "A1" * 32),
        (("local", "lr"), 0.0),
        (("local", "epochs"), 0),
        (("encoding", "range"), 3.0),  # no power of two
        (("aggregation", "groups"), 0),
        (("aggregation", "modulus_bits"), 32),  # the encoding says 24
        (("aggregation", "rule"), {"trim": 0.2}),
        (("encoding", "bits"), 24),
        (("encoding", "bits"), 1),
        (("encoding", "metrics"), [["loss", 0.0]]),
        (("encoding", "metrics"), [["loss", 1.0], ["loss", 1.0]]),
        (("encoding", "metrics"), [["loss", 1.0, 1.0]]),
        (("encoding", "metrics"), [["m", 1.0]] * 257),
        (("encoding", "metrics"), {"loss": 1.0}),
    ],
)
def test_values_that_cannot_be(secure_plan, path, value):
    refused(with_value(secure_plan.as_json(), path, value))


def test_a_plain_round_has_no_ring_and_a_secure_one_has(plain_plan, secure_plan):
    refused(plain_plan.as_json() | {"encoding": secure_plan.as_json()["encoding"]})
    refused(secure_plan.as_json() | {"encoding": plain_plan.as_json()["encoding"]})


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw + b" ",
        lambda raw: raw.replace(b",", b", ", 1),
        lambda raw: raw[:-1] + b',"round":3}',
        lambda raw: raw.replace(b'"round":3', b'"round":3.0'),
        lambda raw: raw.replace(b'"mu":0.25', b'"mu":2.5e-1'),
        lambda raw: raw.replace(b'"mu":0.25', b'"mu":NaN'),
        lambda raw: raw.replace(b'"mu":0.25', b'"mu":1e999'),
        lambda raw: raw.replace(b"heart-1", b"\\u0068eart-1"),
        lambda raw: raw.replace(b"heart-1", b"\\ud800"),
        lambda raw: raw.replace(b"heart-1", b"\xff"),
        lambda raw: b"\xef\xbb\xbf" + raw,
    ],
)
def test_one_spelling_only(plain_plan, change):
    raw = plan_to_json(plain_plan)
    assert change(raw) != raw
    refused(change(raw))


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b"null", b"[]", b"1" * 5000, b"[" * 60_000, b'{"a":' * 10_000, b"x" * 70_000],
    ids=lambda raw: str(raw[:6]),
)
def test_bytes_that_are_no_plan(raw):
    refused(raw)


def test_the_limit_is_on_the_bytes(plain_plan):
    assert len(plan_to_json(plain_plan)) < MAX_PLAN_BYTES
    assert "up to 65536" in refused(b" " * (MAX_PLAN_BYTES + 1))


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
))  # fmt: skip
def test_arbitrary_json_is_malformed_and_nothing_else(body):
    try:
        raw = canonical_json(body)
    except UnicodeEncodeError:  # a lone surrogate
        return
    refused(raw)


def test_record_privacy_travels_both_ways(plan):
    record = RecordPrivacy(1.0, epsilon=2.0, delta=1e-5, rounds=10)
    private = replace(plan, local=replace(plan.local, record=record))
    assert plan_from_json(plan_to_json(private), digest=private.digest).local.record == record
    assert b'"record"' not in plan_to_json(plan)
    bare = plan_to_json(private).replace(b'"rounds":10', b'"rounds":10,"secret":1')
    with pytest.raises(Malformed, match="secret"):
        plan_from_json(bare)
