"""YAML as people expect it."""

import math

import pytest

from choral.config.yaml import load
from choral.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("-1.5e+3", -1500.0),
        ("1.0e-5", 1e-5),
        (".5", 0.5),
        ("3", 3),
        ("-3", -3),
        ("0x10", 16),
        ("1_000", 1000),
        (".inf", math.inf),
        ("true", True),
        ("null", None),
        ("abc", "abc"),
        ("1e", "1e"),
        ("e5", "e5"),
        ("1-2", "1-2"),
        ("'1e-5'", "1e-5"),
        ("[1e3, {a: 2e-1}]", [1000.0, {"a": 0.2}]),
        ("", None),
    ],
)
def test_values(text, value):
    assert load(text, where="here") == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "`a` is there twice"),
        ("{a: {b: 1, b: 1}}", "`b` is there twice"),
        ("a: [1", "here is not YAML"),
        ("!!python/object/apply:os.system [ls]", "not YAML"),
        ("\ta: 1", "not YAML"),
    ],
)
def test_what_is_not_yaml_is_named(text, words):
    with pytest.raises(ConfigError, match=words):
        load(text, where="here")


def test_merge_keys_add_what_is_not_there():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n"
    assert load(text, where="here")["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    "text",
    ["0x_", "2020-13-45", "!!int a", "!!bool a", "!!timestamp a", "9" * 5000, "[" * 5000],
    ids=lambda text: text[:12],
)
def test_a_value_that_is_none_is_an_error_of_ours(text):
    with pytest.raises(ConfigError, match="here"):
        load(text, where="here")
