"""Named arrays, roles, and the way to the flat vector and back."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from choral.core.errors import ConfigError, WrongShape
from choral.core.params import Params, Role, Spec, TensorSpec, Vector

F32, F64, F16 = np.float32, np.float64, np.float16


def model() -> dict[str, np.ndarray]:
    """A buffer between two shared tensors, so that the vector's order is not the model's."""
    return {
        "w": np.array([[1, 2, 3], [4, 5, 6]], F32),
        "mean": np.array([0.5, 1.5], F32),
        "b": np.array([7.0], F32),
        "steps": np.array(9, np.int64),
    }


BUFFERS = {"mean": "buffer"}


# --- Params ----------------------------------------------------------------------------------


def test_params_keep_their_order_and_count_their_bytes() -> None:
    params = Params(model())
    assert list(params) == ["w", "mean", "b", "steps"]
    assert len(params) == 4
    assert params.size_bytes == 24 + 8 + 4 + 8
    assert repr(params) == (
        "Params(w: float32[2, 3], mean: float32[2], b: float32[1], steps: int64[])"
    )


def test_params_are_read_only_and_do_not_follow_the_mapping_they_came_from() -> None:
    arrays = model()
    params = Params(arrays)
    arrays.pop("w")
    assert "w" in params
    with pytest.raises(TypeError, match="item assignment"):
        params["w"] = np.zeros(1)  # type: ignore[index]
    with pytest.raises(TypeError, match="item deletion"):
        del params["w"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype("datetime64[s]"), object, "U3"])
def test_a_dtype_that_no_file_may_hold_is_refused(dtype: Any) -> None:
    with pytest.raises(ConfigError, match="tensor `bad` has dtype"):
        Params({"bad": np.zeros(2, dtype)})


def test_golden_digest_of_params() -> None:
    params = Params({"w": np.arange(6, dtype=F32).reshape(2, 3), "n": np.array(7, np.int64)})
    assert params.sha256 == "0a43e05055c8bdc3c4e09e5267b8e1fdd87fa961d18ac94143fc94a0b3670298"


def test_the_digest_does_not_depend_on_the_layout_in_memory() -> None:
    w = np.arange(6, dtype=F32).reshape(2, 3)
    expected = Params({"w": w}).sha256
    assert Params({"w": np.asfortranarray(w)}).sha256 == expected
    assert Params({"w": w.astype(">f4")}).sha256 == expected
    assert Params({"w": np.repeat(w, 2, axis=1)[:, ::2]}).sha256 == expected


def test_the_digest_depends_on_everything_else() -> None:
    w, z = np.arange(6, dtype=F32), np.zeros(1, F32)
    digests = {
        Params({"w": w}).sha256,
        Params({"v": w}).sha256,
        Params({"w": w.reshape(2, 3)}).sha256,
        Params({"w": w.astype(F64)}).sha256,
        Params({"w": w + F32(1e-6)}).sha256,
        Params({"w": w, "z": z}).sha256,
        Params({"z": z, "w": w}).sha256,
        Params({}).sha256,
    }
    assert len(digests) == 8


# --- Params: equality ------------------------------------------------------------------------


def test_equal_params_are_equal_to_the_bit_and_hash_alike() -> None:
    one, two = Params(model()), Params({n: a.copy() for n, a in model().items()})
    assert one == two
    assert hash(one) == hash(two)
    assert len({one, two}) == 1
    assert {one: "found"}[two] == "found"


@pytest.mark.parametrize(
    "other",
    [
        {"v": np.zeros(4, F32), "n": np.zeros(1, np.int64)},
        {"w": np.zeros(4, F32)},
        {"n": np.zeros(1, np.int64), "w": np.zeros(4, F32)},
        {"w": np.zeros((2, 2), F32), "n": np.zeros(1, np.int64)},
        {"w": np.zeros(4, F32), "n": np.zeros((), np.int64)},
        {"w": np.zeros(4, np.int32), "n": np.zeros(1, np.int64)},
        {"w": np.zeros(2, F64), "n": np.zeros(1, np.int64)},
        {"w": np.zeros(4, F32), "n": np.zeros(1, np.uint64)},
        {"w": np.array([0, 0, 0, 1e-45], F32), "n": np.zeros(1, np.int64)},
        {"w": np.array([0, 0, 0, -0.0], F32), "n": np.zeros(1, np.int64)},
    ],
    ids=["name", "fewer", "order", "shape", "scalar", "dtype", "size", "signed", "bit", "minus"],
)
def test_params_differ_by_names_order_shapes_dtypes_and_bits(other: dict[str, np.ndarray]) -> None:
    params = Params({"w": np.zeros(4, F32), "n": np.zeros(1, np.int64)})
    assert params != Params(other)
    assert hash(params) != hash(Params(other))


def test_nan_is_equal_to_the_same_nan() -> None:
    one, two = (Params({"w": np.array([np.nan, 1], F32)}) for _ in range(2))
    assert one == two


def test_params_are_equal_whatever_their_layout_in_memory() -> None:
    w = np.arange(6, dtype=F32).reshape(2, 3)
    assert Params({"w": w}) == Params({"w": np.asfortranarray(w)}) == Params({"w": w.astype(">f4")})


def test_params_are_not_equal_to_a_plain_mapping() -> None:
    assert Params({}) != {}
    assert Params(model()) != model()
    assert Params(model()) != Params(model()).sha256


# --- Spec.of: roles --------------------------------------------------------------------------


def roles(params: dict[str, np.ndarray], chosen: dict[str, Any] | None = None) -> dict[str, str]:
    return {t.name: t.role.value for t in Spec.of(params, chosen).tensors}


@pytest.mark.parametrize("dtype", [F16, F32, F64])
def test_floating_tensors_are_shared_by_default(dtype: Any) -> None:
    assert roles({"w": np.zeros(1, dtype)}) == {"w": "shared"}


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, np.int64, np.bool_])
def test_other_tensors_are_buffers_by_default(dtype: Any) -> None:
    assert roles({"n": np.zeros(1, dtype)}) == {"n": "buffer"}


def test_a_later_pattern_wins() -> None:
    arrays = {n: np.zeros(1, F32) for n in ("body.w", "body.bn.w", "head.w")}
    chosen = {"body.*": "frozen", "*.bn.*": Role.PERSONAL, "head.w": "shared"}
    assert roles(arrays, chosen) == {
        "body.w": "frozen",
        "body.bn.w": "personal",
        "head.w": "shared",
    }
    backwards = dict(reversed(chosen.items()))
    assert roles(arrays, backwards)["body.bn.w"] == "frozen"


def test_patterns_are_case_sensitive() -> None:
    arrays = {"W": np.zeros(1, F32), "w": np.zeros(1, F32)}
    assert roles(arrays, {"w": "frozen"}) == {"W": "shared", "w": "frozen"}


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="role pattern `heed` matches no tensor") as caught:
        Spec.of({"head": np.zeros(1, F32)}, {"heed": "personal"})
    assert caught.value.hint == "did you mean `head`?"


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown role `personel`") as caught:
        Spec.of({"head": np.zeros(1, F32)}, {"head": "personel"})
    assert caught.value.hint == "did you mean `personal`?"


def test_an_integer_tensor_cannot_be_shared() -> None:
    with pytest.raises(ConfigError, match="tensor `n` of dtype int64 cannot be shared"):
        Spec.of({"n": np.zeros(1, np.int64)}, {"*": "shared"})


@pytest.mark.parametrize("role", ["buffer", "personal", "frozen"])
def test_an_integer_tensor_may_have_any_other_role(role: str) -> None:
    assert roles({"n": np.zeros(1, np.int64)}, {"n": role}) == {"n": role}


def test_a_name_with_brackets_can_be_named() -> None:
    assert roles({"w[0]": np.zeros(1, F32)}, {"w[0]": "frozen"}) == {"w[0]": "frozen"}


@pytest.mark.parametrize("role", [None, 3, ["frozen"]])
def test_a_role_that_is_no_word_is_refused(role: Any) -> None:
    with pytest.raises(ConfigError, match="unknown role"):
        Spec.of({"w": np.zeros(1, F32)}, {"w": role})


# --- Spec: layout ----------------------------------------------------------------------------


def test_the_vector_holds_shared_tensors_then_floating_buffers() -> None:
    spec = Spec.of(model(), BUFFERS)
    assert [t.name for t in spec.aggregated] == ["w", "b", "mean"]
    assert (spec.shared_size, spec.vector_size) == (7, 9)
    vector = spec.flatten(model())
    assert vector.dtype == F32
    assert vector.tolist() == [1, 2, 3, 4, 5, 6, 7, 0.5, 1.5]


def test_personal_and_frozen_tensors_are_not_in_the_vector() -> None:
    spec = Spec.of(model(), {"b": "personal", "mean": "frozen"})
    assert spec.flatten(model()).tolist() == [1, 2, 3, 4, 5, 6]
    rest = model() | {"b": np.array([-1], F32), "mean": np.array([-2, -3], F32)}
    back = spec.unflatten(np.zeros(6, F32), rest)
    assert back["w"].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert list(back) == ["w", "mean", "b", "steps"]
    assert back["b"].tolist() == [-1]
    assert back["mean"].tolist() == [-2, -3]


def test_names_by_role() -> None:
    spec = Spec.of(model(), BUFFERS | {"b": "personal"})
    assert spec.names(Role.SHARED) == ("w",)
    assert spec.names(Role.BUFFER, Role.PERSONAL) == ("mean", "b", "steps")
    assert spec.names(Role.FROZEN) == spec.names() == ()


def test_scalars_and_empty_tensors() -> None:
    arrays = {
        "scalar": np.array(2.5, F32),
        "none": np.zeros((3, 0, 2), F32),
        "one": np.array([[1.5]], F32),
    }
    spec = Spec.of(arrays)
    assert [t.size for t in spec.tensors] == [1, 0, 1]
    vector = spec.flatten(arrays)
    assert vector.tolist() == [2.5, 1.5]
    back = spec.unflatten(vector, {})
    assert [a.shape for a in back.values()] == [(), (3, 0, 2), (1, 1)]
    assert float(back["scalar"]) == 2.5


def test_a_model_without_aggregated_tensors_has_an_empty_vector() -> None:
    arrays = {"w": np.zeros(3, F32)}
    spec = Spec.of(arrays, {"*": "personal"})
    assert spec.flatten(arrays).shape == (0,)
    assert spec.unflatten(np.zeros(0, F32), arrays)["w"] is arrays["w"]
    assert Spec.of({}).vector_size == 0


def test_other_float_types_go_through_float32() -> None:
    arrays = {"half": np.array([0.5, 0.1], F16), "double": np.array([0.1, 1e-40], F64)}
    spec = Spec.of(arrays)
    back = spec.unflatten(spec.flatten(arrays), {})
    assert back["half"].dtype == F16
    assert back["half"].tolist() == arrays["half"].tolist()
    assert back["double"].dtype == F64
    assert back["double"].tolist() == [float(F32(0.1)), float(F32(1e-40))]


@pytest.mark.parametrize("dtype", [F16, F32, F64])
def test_a_floating_buffer_is_in_the_vector(dtype: Any) -> None:
    spec = Spec.of({"mean": np.ones(2, dtype)}, {"mean": "buffer"})
    assert (spec.shared_size, spec.vector_size) == (0, 2)
    back = spec.unflatten(np.array([0.5, 2.5], F32), {})["mean"]
    assert (back.dtype, back.tolist()) == (dtype, [0.5, 2.5])


INTEGERS = [
    np.array([-(2**63), 2**63 - 1, 2**53 + 1], np.int64),
    np.array(2**24 + 1, np.int32),
    np.array([[-128, 127]], np.int8),
    np.array([2**64 - 1], np.uint64),
    np.array([True, False]),
    np.zeros((0, 3), np.uint8),
]
"""Some of them are no float32 numbers."""


@pytest.mark.parametrize("count", INTEGERS, ids=[a.dtype.name for a in INTEGERS])
def test_an_integer_buffer_is_not_in_the_vector(count: np.ndarray) -> None:
    arrays = {"first": count, "w": np.array([1.0, 2.0], F32), "last": count}
    spec = Spec.of(arrays)
    assert spec.names(Role.BUFFER) == ("first", "last")
    assert [t.name for t in spec.aggregated] == ["w"]
    assert (spec.shared_size, spec.vector_size) == (2, 2)
    assert spec.flatten(arrays).tolist() == [1.0, 2.0]
    assert spec.flatten({"w": arrays["w"]}).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("count", INTEGERS, ids=[a.dtype.name for a in INTEGERS])
def test_an_integer_buffer_comes_from_rest_untouched(count: np.ndarray) -> None:
    arrays = {"n": count, "w": np.zeros(2, F32)}
    back = Spec.of(arrays).unflatten(np.array([3.0, 4.0], F32), arrays)
    assert list(back) == ["n", "w"]
    assert back["n"] is count
    assert count.flags.writeable
    assert back["w"].tolist() == [3.0, 4.0]


def test_a_model_of_integers_alone_has_an_empty_vector() -> None:
    spec = Spec.of({"n": np.array(3)})
    assert spec.flatten({"n": np.array(4)}).shape == (0,)
    assert spec.unflatten(np.zeros(0, F32), {"n": np.array(5)})["n"].item() == 5


@given(
    hnp.arrays(F32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)),
    hnp.arrays(np.int32, 3),
)
@settings(derandomize=True, deadline=None)
def test_a_model_comes_back_bit_for_bit(weight: np.ndarray, count: np.ndarray) -> None:
    arrays = {"n": count, "w": weight}
    spec = Spec.of(arrays)
    back = spec.unflatten(spec.flatten(arrays), {"n": count})
    spec.check(back)
    assert back.sha256 == Params(arrays).sha256


def test_flatten_into_a_given_vector() -> None:
    spec = Spec.of(model(), BUFFERS)
    out = np.empty(9, F32)
    assert spec.flatten(model(), out) is out
    assert out.tolist() == spec.flatten(model()).tolist()


@pytest.mark.parametrize("shape", [(5,), (7,), (6,), (3, 2), (2, 3, 1), (1, 3), (1,), ()])
def test_flatten_refuses_a_tensor_of_another_shape(shape: tuple[int, ...]) -> None:
    """Some have as many elements as the shape [2, 3], others would be broadcast to it."""
    spec = Spec.of(model(), BUFFERS)
    with pytest.raises(WrongShape, match=r"tensor `w` has shape \[.*\], expected \[2, 3\]"):
        spec.flatten(model() | {"w": np.zeros(shape, F32)})


def test_flatten_refuses_a_floating_buffer_of_another_shape() -> None:
    spec = Spec.of(model(), BUFFERS)
    with pytest.raises(WrongShape, match=r"tensor `mean` has shape \[1\], expected \[2\]"):
        spec.flatten(model() | {"mean": np.zeros(1, F32)})


def test_flatten_does_not_look_at_what_is_not_in_the_vector() -> None:
    spec = Spec.of(model(), {"b": "personal", "mean": "frozen"})
    others = {"b": np.zeros(3, F32), "steps": np.zeros(3, np.int64), "extra": np.zeros(1, F32)}
    assert spec.flatten({"w": model()["w"]} | others).tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("shape", [(8,), (10,), (9, 1), ()])
def test_a_vector_of_another_length_is_refused(shape: tuple[int, ...]) -> None:
    spec = Spec.of(model(), BUFFERS)
    with pytest.raises(WrongShape, match=r"expected \[9\]"):
        spec.unflatten(np.zeros(shape, F32), model())


def test_float32_tensors_are_views_of_the_vector() -> None:
    spec = Spec.of(model(), BUFFERS)
    vector = spec.flatten(model())
    back = spec.unflatten(vector, model())
    assert all(np.shares_memory(back[name], vector) for name in ("w", "b", "mean"))
    assert not np.shares_memory(back["steps"], vector)


def test_the_arrays_that_unflatten_makes_are_read_only() -> None:
    """`Params` promises read-only arrays where Choral made them."""
    floats = {n: a for n, a in model().items() if n != "steps"}
    arrays = floats | {"half": np.ones(2, F16), "double": np.ones((), F64)}
    spec = Spec.of(arrays, BUFFERS)
    vector = spec.flatten(arrays)
    back = spec.unflatten(vector, {})
    assert not any(a.flags.writeable for a in back.values())
    assert vector.flags.writeable


# --- Spec: equality, digest and check ---------------------------------------------------------


def test_golden_digest_of_a_spec() -> None:
    arrays = {
        "w": np.zeros((2, 3), F32),
        "b": np.zeros((), F64),
        "n": np.zeros(1, np.int64),
        "head": np.zeros(2, F16),
    }
    assert Spec.of(arrays, {"head": "personal"}).digest == (
        "da8d9476520a018fd0960d693b5fdb1c4b997d4e59a7583764f9d51fbcc7cd0a"
    )


def test_the_digest_of_a_spec_depends_on_names_shapes_dtypes_roles_and_order() -> None:
    a, b = TensorSpec("a", (2,), "float32", Role.SHARED), TensorSpec("b", (), "int64", Role.BUFFER)
    specs = [
        Spec((a, b)),
        Spec((b, a)),
        Spec((a,)),
        Spec(()),
        Spec((dataclasses.replace(a, name="c"), b)),
        Spec((dataclasses.replace(a, shape=(1, 2)), b)),
        Spec((dataclasses.replace(a, dtype="float16"), b)),
        Spec((dataclasses.replace(a, role=Role.FROZEN), b)),
    ]
    assert len({s.digest for s in specs}) == len(specs)
    assert Spec((a, b)).digest == specs[0].digest


def test_a_spec_is_a_value() -> None:
    one, two = Spec.of(model()), Spec.of({n: a + 1 for n, a in model().items()})
    assert one == two
    assert hash(one) == hash(two)
    assert one != Spec.of(model(), BUFFERS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.tensors = ()  # type: ignore[misc]


def test_check_accepts_the_model_it_was_made_of() -> None:
    Spec.of(model()).check(Params(model()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": None}, "do not match"),
        ({"extra": np.zeros(1, F32)}, "do not match"),
        ({"b": np.zeros(2, F32)}, r"tensor `b` is float32\[2\], expected float32\[1\]"),
        ({"b": np.zeros((), F32)}, r"tensor `b` is float32\[\], expected float32\[1\]"),
        ({"b": np.zeros(1, F64)}, r"tensor `b` is float64\[1\], expected float32\[1\]"),
    ],
)
def test_check_refuses_another_model(change: dict[str, Any], message: str) -> None:
    arrays = {n: a for n, a in (model() | change).items() if a is not None}
    with pytest.raises(WrongShape, match=message):
        Spec.of(model()).check(arrays)


def test_check_refuses_another_order() -> None:
    with pytest.raises(WrongShape, match="do not match"):
        Spec.of(model()).check(dict(reversed(model().items())))


def test_the_vector_type_is_float32() -> None:
    vector: Vector = Spec.of(model()).flatten(model())
    assert vector.dtype == np.float32


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_a_name_that_no_file_can_hold_is_refused(name):
    with pytest.raises(ConfigError, match="tensor"):
        Params({name: np.zeros(1, np.float32)})


def test_an_exact_name_goes_before_a_pattern():
    params = Params({"w[0]": np.zeros(1, np.float32), "w0": np.zeros(1, np.float32)})
    spec = Spec.of(params, {"w[0]": "frozen"})
    assert [t.role.value for t in spec.tensors] == ["frozen", "shared"]
