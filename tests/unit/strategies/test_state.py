"""States in storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from choral.core.errors import StoreError
from choral.core.tensors import decode_tensors, encode_tensors
from choral.strategies.state import load, save


@dataclass(frozen=True, slots=True, eq=False)
class Mixed:
    """One field of every kind."""

    params: np.ndarray
    seen: int
    radius: float
    control: np.ndarray | None


def mixed(**values: Any) -> Mixed:
    given = {"params": np.zeros(3, np.float32), "seen": 0, "radius": 0.0, "control": None}
    return Mixed(**(given | values))


def test_what_a_state_becomes() -> None:
    arrays = save(mixed(seen=5, radius=0.5))
    assert list(arrays) == ["params", "seen", "radius"]
    assert (arrays["seen"].dtype.name, arrays["seen"].shape, arrays["seen"].item()) == (
        "int64",
        (),
        5,
    )
    assert (arrays["radius"].dtype.name, arrays["radius"].shape) == ("float64", ())
    assert arrays["params"].dtype.name == "float32"


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    params=hnp.arrays(np.uint32, 3).map(lambda raw: raw.view(np.float32)),
    seen=st.integers(-(2**63), 2**63 - 1),
    radius=st.floats(allow_nan=False),
    control=st.none() | hnp.arrays(np.float32, st.integers(0, 4)),
)
def test_every_bit_comes_back(
    params: np.ndarray, seen: int, radius: float, control: np.ndarray | None
) -> None:
    """NaN patterns, infinities and signed zeros included."""
    state = mixed(params=params, seen=seen, radius=radius, control=control)
    found = load(mixed(), decode_tensors(b"".join(encode_tensors(save(state)))))
    assert found.params.tobytes() == params.tobytes()
    assert type(found.seen) is int
    assert found.seen == seen
    assert type(found.radius) is float
    assert found.radius.hex() == radius.hex()
    if control is None:
        assert found.control is None
    else:
        assert found.control.tobytes() == control.tobytes()
        assert found.control.dtype == np.float32


def test_a_number_may_fill_what_began_as_none() -> None:
    for value in (7, 2.5):
        found = load(mixed(), save(mixed(control=value)))
        assert found.control == value
        assert type(found.control) is type(value)


def test_loading_copies_nothing() -> None:
    arrays = save(mixed())
    assert load(mixed(), arrays).params is arrays["params"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": None}, r"lacks `params`, expected float32\[3\]"),
        ({"params": np.zeros(4, np.float32)}, r"`params` as float32\[4\], expected float32\[3\]"),
        ({"params": np.zeros(3, np.float64)}, r"`params` as float64\[3\], expected float32\[3\]"),
        ({"seen": None}, r"lacks `seen`, expected int64\[\]"),
        ({"seen": np.array(1.0)}, r"`seen` as float64\[\], expected int64\[\]"),
        ({"radius": np.zeros(1)}, r"`radius` as float64\[1\], expected float64\[\]"),
        ({"control": np.array(1, np.int32)}, r"`control` as int32\[\], expected int64 or float64"),
        ({"parmas": np.zeros(3)}, r"`parmas`, which Mixed has not \(did you mean `params`\?\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    arrays = {n: a for n, a in (save(mixed()) | change).items() if a is not None}
    with pytest.raises(StoreError, match=message):
        load(mixed(), arrays)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seen", True),
        ("seen", 2**63),
        ("seen", np.int64(1)),
        ("params", np.array(1.0)),
        ("params", np.array(["a"])),
        ("control", [1.0]),
        ("control", "text"),
    ],
)
def test_a_field_that_cannot_be_stored_is_named(field: str, value: object) -> None:
    with pytest.raises(StoreError, match=f"state field `{field}` is"):
        save(mixed(**{field: value}))


def test_a_state_must_be_a_dataclass() -> None:
    for state in ({"params": np.zeros(1)}, Mixed):
        with pytest.raises(StoreError, match="expected a dataclass"):
            save(state)
