"""Building what a file names: the thing itself, or a message that helps."""

import dataclasses
from typing import Any

import pytest

from choral.core.errors import ConfigError, UnknownKey, UnknownName
from choral.core.registry import build_named


@dataclasses.dataclass(frozen=True)
class Prox:
    """An entry with one argument that must be given."""

    mu: float
    lr: float = 0.5

    def __post_init__(self) -> None:
        if self.mu < 0:
            raise ConfigError(f"mu {self.mu}: expected at least 0")


def build(name: Any, **arguments: Any) -> Any:
    return build_named(
        {"fedprox": Prox, "mean": lambda *, trim=0.1: trim}, name, arguments, what="thing"
    )


def test_an_entry_is_called_with_its_arguments() -> None:
    assert build("fedprox", mu=0.1) == Prox(0.1, 0.5)
    assert build("fedprox", lr=1.0, mu=0.1) == Prox(0.1, 1.0)
    assert build("mean") == 0.1


@pytest.mark.parametrize("name", ["fedproxx", "FedProx", "", 3, ["fedprox"]])
def test_an_unknown_name(name: Any) -> None:
    with pytest.raises(UnknownName, match="unknown thing `"):
        build(name)


def test_no_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="thing without a `name`") as caught:
        build(None)
    assert "fedprox" in caught.value.hint


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        build("fedproxx")
    assert str(caught.value) == "unknown thing `fedproxx` (did you mean `fedprox`?)"


def test_an_unknown_argument_is_told_the_nearest() -> None:
    with pytest.raises(UnknownKey) as caught:
        build("fedprox", mux=0.1)
    assert str(caught.value) == "thing `fedprox` has no argument `mux` (did you mean `mu`?)"


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        build("fedprox", lr=0.1)
    assert str(caught.value) == "thing `fedprox` needs `mu` (takes mu, lr)"


def test_what_the_entry_says_of_its_values_is_passed_on() -> None:
    with pytest.raises(ConfigError, match="mu -1: expected at least 0"):
        build("fedprox", mu=-1)
