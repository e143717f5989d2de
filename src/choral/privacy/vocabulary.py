"""The words of differential privacy here: unit, relation, sampling, release, epsilon.

All are frozen values with a JSON form, so that they stand in plans, logs and results. Whatever
shows an epsilon shows the `Epsilon`: the number with its delta, unit and relation.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final, TypeAlias

from choral.core.checks import one_of, real, whole
from choral.core.errors import ConfigError, PlanError

DEFAULT_DELTA: Final = 1e-5


class PrivacyUnit(enum.StrEnum):
    """Whose data two neighbouring worlds differ in."""

    USER = "user"
    """Everything that one client holds."""
    RECORD = "record"
    """One example."""


class Relation(enum.StrEnum):
    """How two neighbouring worlds differ. Epsilons of different relations do not compare."""

    ADD_REMOVE = "add_remove"
    """One unit is there or not; who takes part is hidden, too."""
    REPLACE = "replace"
    """One unit's data is other data; an update moves by up to twice its bound."""
    ZERO_OUT = "zero_out"
    """One unit's contribution is zero instead; who takes part is known."""


class Mechanism(enum.StrEnum):
    """Where the noise of a release comes from."""

    GAUSSIAN = "gaussian"
    """Continuous Gaussian noise, or integer noise that is as good: see `central`."""
    DISCRETE_GAUSSIAN = "discrete_gaussian"
    """One discrete Gaussian, or a sum of several (`Release.addends`)."""
    SKELLAM = "skellam"
    """Differences of Poisson variables."""


@dataclass(frozen=True, slots=True)
class Poisson:
    """Each unit takes part by a coin of its own, independent of all others.

    Attributes:
        q: Probability, in (0, 1].
        cap: Most that take part; a larger draw is cut down. None for no cap.
        population: How many there are; needed with a cap, whose cost depends on it.

    Raises:
        ConfigError: One is out of range, or a cap comes without a population.
    """

    name: ClassVar[str] = "poisson"

    q: float
    cap: int | None = None
    population: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "q", real("sampling.q", self.q, above=0, most=1))
        if self.cap is not None:
            whole("sampling.cap", self.cap, least=1)
            if self.population is None:
                raise ConfigError(
                    "sampling.cap without `population`",
                    hint="what a cap costs depends on how many could be drawn",
                )
        if self.population is not None:
            whole("sampling.population", self.population, least=1)


@dataclass(frozen=True, slots=True)
class WithoutReplacement:
    """A cohort of fixed size, every one equally likely. It is not Poisson sampling.

    Attributes:
        cohort: n, how many take part.
        population: N, of how many.
    """

    name: ClassVar[str] = "without_replacement"

    cohort: int
    population: int

    def __post_init__(self) -> None:
        whole("sampling.population", self.population, least=1)
        whole("sampling.cohort", self.cohort, least=1, most=self.population)


@dataclass(frozen=True, slots=True)
class MinSeparation:
    """Units take part when they come, at least `separation` rounds apart: no amplification.

    The release is then the whole matrix mechanism, and its sensitivity that of one participation
    under a strategy matrix with columns of norm 1 and bandwidth at most `separation`. For any other
    matrix compute the sensitivity of all participations and declare `NoSampling`.

    Attributes:
        separation: b, rounds from one participation to the next, at least.
        participations: k, how often one unit takes part, at most.
    """

    name: ClassVar[str] = "min_separation"

    separation: int
    participations: int

    def __post_init__(self) -> None:
        whole("sampling.separation", self.separation, least=1)
        whole("sampling.participations", self.participations, least=1)


@dataclass(frozen=True, slots=True)
class NoSampling:
    """Every unit may take part in every release, and who does may be known."""

    name: ClassVar[str] = "none"


Sampling: TypeAlias = Poisson | WithoutReplacement | MinSeparation | NoSampling

_SAMPLINGS: Final[Mapping[str, Callable[..., Sampling]]] = {
    kind.name: kind for kind in (Poisson, WithoutReplacement, MinSeparation, NoSampling)
}


def sampling_json(sampling: Sampling) -> dict[str, Any]:
    """Return a sampling as a JSON object; `sampling_of` reads it."""
    return {"kind": sampling.name, **asdict(sampling)}


def sampling_of(terms: Mapping[str, Any]) -> Sampling:
    """Return the sampling that `sampling_json` wrote.

    Raises:
        UnknownName: An unknown kind.
        ConfigError: Fields that it does not have, or that are out of range.

    >>> sampling_of({"kind": "without_replacement", "cohort": 10, "population": 100})
    WithoutReplacement(cohort=10, population=100)
    """
    fields = dict(terms)
    kind = one_of("sampling.kind", fields.pop("kind", None), tuple(_SAMPLINGS))
    try:
        return _SAMPLINGS[kind](**fields)
    except TypeError as error:
        raise ConfigError(f"sampling {kind}: {error}") from None


UNSAMPLED: Final = NoSampling()
"""The sampling that gives no credit."""


def check_selection(sampling: Sampling, selection: str) -> None:
    """Refuse credit for a sampling that a run does not really do.

    A selector that looks at clients (strata, speed, loss, incentives), and a round that takes the
    first to answer, is neither a coin for each nor a uniform cohort, whatever its average is.

    Args:
        sampling: What a release claims.
        selection: Name of the run's selection.

    Raises:
        PlanError: The claim is credit, and the selection is not exactly what it needs.

    >>> check_selection(Poisson(0.1), "poisson")
    """
    needed = _SELECTIONS.get(sampling.name)
    if needed is not None and selection != needed:
        raise PlanError(
            f"selection `{selection}` is not sampling `{sampling.name}`, so it amplifies nothing",
            hint=f"select by `{needed}`, or declare sampling `none`",
        )


_SELECTIONS: Final[Mapping[str, str]] = {
    Poisson.name: "poisson",
    WithoutReplacement.name: "uniform",
    MinSeparation.name: "min_separation",
}


@dataclass(frozen=True, slots=True)
class Release:
    """One use of a mechanism: what an accountant must know, and nothing else.

    Attributes:
        kind: The mechanism.
        sigma: Standard deviation of all the noise that may be counted on in one coordinate; in
            whatever unit `sensitivity` has. 0 stands for no noise: an infinite epsilon.
        sensitivity: Bound of the L2 norm of one unit's contribution, rounding included. A
            relation of `replace` doubles it: accountants do that, never the caller.
        sampling: Who takes part.
        l1: Bound of the L1 norm of a contribution; Skellam noise needs it.
        dimension: Coordinates that get integer noise, whose tables are charged to delta; 0 where
            the noise is not ours.
        addends: Discrete Gaussians in the sum of the noise.

    Raises:
        ConfigError: One of them is out of range.
        PlanError: Noise without a finite sensitivity, or Skellam noise without `l1`.
    """

    kind: Mechanism
    sigma: float
    sensitivity: float
    sampling: Sampling = UNSAMPLED
    l1: float | None = None
    dimension: int = 0
    addends: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", Mechanism(one_of("kind", self.kind, _MECHANISMS)))
        object.__setattr__(self, "sigma", real("sigma", self.sigma, least=0))
        found = self.sensitivity
        if not isinstance(found, bool) and isinstance(found, int | float) and found == math.inf:
            raise PlanError(
                "noise without a clip: nothing bounds what one contribution changes",
                hint="put a clip before the noise",
            )
        object.__setattr__(self, "sensitivity", real("sensitivity", found, above=0))
        if self.kind is Mechanism.SKELLAM and self.l1 is None:
            raise PlanError("Skellam noise needs the L1 norm of a contribution, too")
        if self.l1 is not None:
            object.__setattr__(self, "l1", real("l1", self.l1, above=0))
        whole("dimension", self.dimension, least=0)
        whole("addends", self.addends, least=1)

    @property
    def multiplier(self) -> float:
        """Noise over sensitivity: what papers call the noise multiplier z."""
        return self.sigma / self.sensitivity

    def as_json(self) -> dict[str, Any]:
        """Return the release as a JSON object; `release_of` reads it."""
        return {
            "kind": self.kind.value,
            "sigma": self.sigma,
            "sensitivity": self.sensitivity,
            "sampling": sampling_json(self.sampling),
            "l1": self.l1,
            "dimension": self.dimension,
            "addends": self.addends,
        }


_MECHANISMS: Final = tuple(kind.value for kind in Mechanism)


def release_of(terms: Mapping[str, Any]) -> Release:
    """Return the release that `Release.as_json` wrote.

    Raises:
        ConfigError: It is none.

    >>> one = Release(Mechanism.GAUSSIAN, 1.1, 1.0, Poisson(0.01))
    >>> release_of(one.as_json()) == one
    True
    """
    fields = dict(terms)
    try:
        return Release(sampling=sampling_of(fields.pop("sampling")), **fields)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"no release: {error}") from None


@dataclass(frozen=True, slots=True)
class Epsilon:
    """An upper bound of privacy loss, with all that it depends on.

    Attributes:
        value: Epsilon; infinity where nothing protects.
        delta: Probability that the bound fails.
        unit: Whose data.
        relation: Between which worlds.
        accountant: What computed it: `pld`, `rdp`, or `gaussian` (the exact formula).
    """

    value: float
    delta: float
    unit: PrivacyUnit
    relation: Relation
    accountant: str

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object; an infinite epsilon is null."""
        return {
            "epsilon": self.value if math.isfinite(self.value) else None,
            "delta": self.delta,
            "unit": self.unit.value,
            "relation": self.relation.value,
            "accountant": self.accountant,
        }

    def __str__(self) -> str:
        return (
            f"epsilon {self.value:.3g} at delta {self.delta:g} "
            f"({self.unit.value}, {self.relation.value})"
        )


def check_epsilon(value: Any, *, name: str = "privacy.epsilon") -> float:
    """Return a target as a float.

    Raises:
        ConfigError: It is not a finite number above 0.

    >>> check_epsilon(0)
    Traceback (most recent call last):
    choral.core.errors.ConfigError: privacy.epsilon 0: expected a finite number above 0
    """
    return real(name, value, above=0)


def check_delta(value: Any, *, name: str = "privacy.delta") -> float:
    """Return a delta as a float.

    Raises:
        ConfigError: It is not in (0, 1).
    """
    return real(name, value, above=0, below=1)


def delta_warning(delta: float, units: int) -> str | None:
    """Return what to say about a delta that allows to publish somebody outright, or None.

    Args:
        delta: In (0, 1).
        units: n, how many people or records there are, at least 1.

    >>> delta_warning(1e-5, 1000) is None
    True
    >>> delta_warning(0.01, 1000)
    'delta 0.01 is above 1/1000: publishing one of 1000 at random would satisfy it'
    """
    if delta <= 1 / units:
        return None
    return (
        f"delta {delta:g} is above 1/{units}: publishing one of {units} at random would satisfy it"
    )
