"""How the updates of a round become one: terms that stand in its plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final, TypeAlias

from choral.core.checks import one_of, real, whole
from choral.core.errors import ConfigError
from choral.core.exact import Encoding, grid_setting, power_of_two

SUITES: Final = ("full", "graph", "semi_honest")
MODULI: Final = (16, 24, 32, 64)


@dataclass(frozen=True, slots=True)
class Plain:
    """The coordinator sees every update and sums them exactly."""

    kind: ClassVar[str] = "plain"

    def as_json(self) -> dict[str, Any]:
        """Return the terms as a JSON object."""
        return {"kind": self.kind}


@dataclass(frozen=True, slots=True)
class Secure:
    """The coordinator sees sums alone.

    Attributes:
        suite: `full`, `graph` or `semi_honest`; None takes `full` up to 128 clients and `graph`
            above. `semi_honest` protects against a coordinator that follows the protocol, and no
            other; it is never chosen by itself.
        min_cohort: Fewest clients in a sum, at least 2; None stands for 3, or 64 on a random graph.
        corrupt: Fraction of a cohort that may collude with the coordinator.
        dropout: Fraction of a cohort that may be lost.
        modulus_bits: m of the ring: 16, 24, 32 or 64.
        groups: Sums of a round, each over a random part of its cohort.
        rule: Robust rule over the groups' means, a name or `{name: …}` with arguments.

    Raises:
        ConfigError: One of them is out of range.
    """

    kind: ClassVar[str] = "secure"

    suite: str | None = None
    min_cohort: int | None = None
    corrupt: float = 0.05
    dropout: float = 0.1
    modulus_bits: int = 32
    groups: int = 1
    rule: str | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.suite is not None:
            one_of("secure.suite", self.suite, SUITES)
        if self.min_cohort is not None:
            whole("secure.min_cohort", self.min_cohort, least=2)
        for name in ("corrupt", "dropout"):
            value = real(f"secure.{name}", getattr(self, name), least=0, below=1)
            object.__setattr__(self, name, value)
        whole("secure.groups", self.groups, least=1)
        if type(self.modulus_bits) is not int or self.modulus_bits not in MODULI:
            raise ConfigError(f"secure.modulus_bits {self.modulus_bits!r}: expected 16, 24, 32, 64")

    def as_json(self) -> dict[str, Any]:
        """Return the terms as a JSON object."""
        return {"kind": self.kind, **asdict(self)}


Aggregation: TypeAlias = Plain | Secure


@dataclass(frozen=True, slots=True)
class RingGrid:
    """How an update becomes elements of the ring of a secure sum; part of its plan.

    Attributes:
        range: C: bound of one coordinate of one update; rounded up to a power of two.
        weight_cap: Weight above which a client's own side refuses.
        bits: b of one contribution, with the sign.
        modulus_bits: m of the ring.
        metrics: Names of what clients measure, each with the bound of its magnitude; nothing else
            that they measure leaves them.
    """

    range: float
    weight_cap: float
    bits: int
    modulus_bits: int
    metrics: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("range", "weight_cap"):
            object.__setattr__(self, name, grid_setting(name, getattr(self, name)))
        object.__setattr__(self, "range", power_of_two(self.range))

    @property
    def weight_unit(self) -> float:
        """The weight that counts as 1: the cap, rounded up to a power of two."""
        return power_of_two(self.weight_cap)

    @property
    def one(self) -> int:
        """The ring element that stands for 1 in weights and metrics."""
        return int(2 ** (self.bits - 2))


Grid: TypeAlias = Encoding | RingGrid
