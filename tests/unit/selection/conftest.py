"""A population that is written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Listed:
    """Clients with their labels."""

    labels: Mapping[str, Mapping[str, str]]

    @property
    def ids(self) -> list[str]:
        return list(self.labels)

    def strata(self, client: str) -> Mapping[str, str]:
        return self.labels[client]


@pytest.fixture
def of_regions() -> Callable[[str], Listed]:
    """Clients c0, c1, … from one letter each, their region; a dash declares none."""

    def make(letters: str) -> Listed:
        return Listed({f"c{i}": {} if r == "-" else {"region": r} for i, r in enumerate(letters)})

    return make
