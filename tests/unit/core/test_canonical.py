"""Canonical JSON: one value, one byte string, one digest."""

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choral.core.canonical import canonical_json, digest_of

TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, b"{}"),
        (None, b"null"),
        ({"b": 1, "a": [True, None, "x"]}, b'{"a":[true,null,"x"],"b":1}'),
        ({"B": 1, "a": 2, "": 3}, b'{"":3,"B":1,"a":2}'),
        ("é→", '"é→"'.encode()),
        ('a"\n', b'"a\\"\\n"'),
        (0.1, b"0.1"),
        (1e16, b"1e+16"),
        (1.0, b"1.0"),
        (1, b"1"),
        (2**70, b"1180591620717411303424"),
        ((1, 2), b"[1,2]"),
    ],
)
def test_golden_bytes(value: Any, expected: bytes) -> None:
    assert canonical_json(value) == expected


def test_golden_digest() -> None:
    """The SHA-256 of the two bytes `{}`, as any tool computes it."""
    assert digest_of({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert digest_of([1]) == hashlib.sha256(b"[1]").hexdigest()


@given(st.dictionaries(TEXT, JSON, max_size=6))
@settings(derandomize=True, deadline=None)
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert canonical_json(backwards) == canonical_json(value)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_json_cannot_say_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"lr": [number]})
