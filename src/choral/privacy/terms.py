"""What people ask for: `privacy: {…}` of a federation file, and `choral.Privacy`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from choral.core.checks import flag, one_of, real
from choral.core.errors import ConfigError, PlanError, UnknownKey, did_you_mean
from choral.privacy.vocabulary import DEFAULT_DELTA, Relation, check_delta, check_epsilon

MODES: Final = ("central", "distributed", "record")

DEFAULT_MAX_NORM: Final = 1.0
"""The clip where noise is calibrated and nothing is said about it."""

ADAPTIVE: Final = "adaptive"

_ARTICLE: Final = frozenset({"dp_enabled", "noise_multiplier", "max_grad_norm"})


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be released about a population, over all of its runs.

    Attributes:
        epsilon: Hard limit, above 0.
        delta: That it goes with; None for that of the run.
        population: Name of the people; None for the federation's name.

    Raises:
        ConfigError: One of them is out of range.
    """

    epsilon: float
    delta: float | None = None
    population: str | None = None

    def __post_init__(self) -> None:
        found = check_epsilon(self.epsilon, name="privacy.budget.epsilon")
        object.__setattr__(self, "epsilon", found)
        if self.delta is not None:
            found = check_delta(self.delta, name="privacy.budget.delta")
            object.__setattr__(self, "delta", found)
        name = self.population
        if name is not None and not (isinstance(name, str) and name.isprintable() and name):
            raise ConfigError(f"privacy.budget.population {name!r}: expected a name")


@dataclass(frozen=True, slots=True)
class Privacy:
    """Differential privacy of a run, as it is asked for.

    Give `epsilon` and the noise follows from it, or `noise_multiplier` and epsilon follows from
    that; a bound that is given with both must hold.

    Attributes:
        epsilon: Upper bound for all rounds of the run together.
        delta: That it goes with; default 1e-5.
        mode: `central`, `distributed` or `record`; None takes `distributed` where aggregation is
            secure and `central` where it is plain.
        noise_multiplier: z: noise over the bound of one contribution.
        max_norm: C: L2 norm that every update is clipped to; 1 where `epsilon` alone is given.
        clip: `adaptive` lets `max_norm`, where it starts, follow the median of updates' norms;
            `{"name": "adaptive", "quantile": 0.8}` another quantile. Mode `central` alone.
        mechanism: Of distributed noise: `skellam` (default) or `discrete_gaussian`.
        relation: `add_remove`, `replace` or `zero_out`; default `add_remove` for central noise and
            `replace` for distributed noise.
        budget: Limit of a population over its runs, a `Budget` or a mapping with its fields.

    Raises:
        ConfigError: One of them is out of range, or neither epsilon nor noise is given.
        PlanError: Noise without a clip.

    >>> Privacy(epsilon=4).delta
    1e-05
    """

    epsilon: float | None = None
    delta: float = DEFAULT_DELTA
    mode: str | None = None
    noise_multiplier: float | None = None
    max_norm: float | None = None
    clip: str | Mapping[str, Any] | None = None
    mechanism: str | None = None
    relation: str | None = None
    budget: Budget | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.epsilon is not None:
            object.__setattr__(self, "epsilon", check_epsilon(self.epsilon))
        object.__setattr__(self, "delta", check_delta(self.delta))
        if self.mode is not None:
            one_of("privacy.mode", self.mode, MODES)
        if self.mechanism is not None:
            one_of("privacy.mechanism", self.mechanism, ("skellam", "discrete_gaussian"))
        if self.relation is not None:
            one_of("privacy.relation", self.relation, tuple(r.value for r in Relation))
        if self.clip is not None:
            object.__setattr__(self, "clip", _clip(self.clip))
        if self.budget is not None and not isinstance(self.budget, Budget):
            object.__setattr__(self, "budget", _budget(self.budget))
        self._check_noise()

    def _check_noise(self) -> None:
        """Check noise and clip, which need each other."""
        z = self.noise_multiplier
        if z is not None:
            z = real("privacy.noise_multiplier", z, above=0)
            object.__setattr__(self, "noise_multiplier", z)
        elif self.epsilon is None:
            raise ConfigError(
                "privacy: neither `epsilon` nor `noise_multiplier`",
                hint="`{epsilon: 4}` calibrates the noise",
            )
        norm = self.max_norm
        if norm is None and z is not None:
            norm = math.inf
        if norm is None:
            norm = DEFAULT_MAX_NORM
        if isinstance(norm, float) and norm == math.inf:
            raise PlanError(
                "noise without a clip: nothing bounds what one contribution changes",
                hint="`max_norm: 1.0` beside `noise_multiplier`",
            )
        object.__setattr__(self, "max_norm", real("privacy.max_norm", norm, above=0))

    @property
    def quantile(self) -> float:
        """Quantile that an adaptive clip follows; 0 where the clip stays as it is."""
        return float(self.clip["quantile"]) if isinstance(self.clip, Mapping) else 0.0

    @property
    def bound(self) -> float:
        """C of the clip."""
        return DEFAULT_MAX_NORM if self.max_norm is None else self.max_norm

    def as_json(self) -> dict[str, Any]:
        """Return what was asked for as a JSON object."""
        body = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "budget"}
        budget = self.budget
        if isinstance(budget, Budget):
            body["budget"] = {f.name: getattr(budget, f.name) for f in fields(budget)}
        return {name: value for name, value in body.items() if value is not None}


def privacy_of(value: Any) -> Privacy | None:
    """Return what people ask for as an object.

    `{dp_enabled, noise_multiplier, max_grad_norm}` alone is the mode `record`: clips and noise at
    each step of local training.

    Args:
        value: None, a `Privacy`, or a mapping with its fields.

    Returns:
        None where no differential privacy is asked for.

    Raises:
        ConfigError: It is none of these, or one of its values is wrong.
        UnknownKey: A key that nobody reads.

    >>> privacy_of({"dp_enabled": True, "noise_multiplier": 1.1, "max_grad_norm": 1.0}).mode
    'record'
    """
    if value is None or isinstance(value, Privacy):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"privacy {value!r}: expected keys and values", hint="`{epsilon: 4}`")
    given = dict(value)
    known = {f.name for f in fields(Privacy)} | _ARTICLE
    for key in given:
        if key not in known:
            raise UnknownKey(f"unknown key `privacy.{key}`", hint=did_you_mean(str(key), known))
    if not flag("privacy.dp_enabled", given.pop("dp_enabled", True)):
        return None
    if "max_grad_norm" in given:
        if "max_norm" in given or given.get("mode", "record") != "record":
            raise ConfigError(
                "privacy.max_grad_norm is the clip of each step, of mode `record`",
                hint="`max_norm` clips updates",
            )
        given["max_norm"] = given.pop("max_grad_norm")
        given["mode"] = "record"
    return Privacy(**{name: v for name, v in given.items() if v is not None})


def _clip(given: Any) -> dict[str, Any]:
    """Return an adaptive clip as a mapping with its quantile."""
    body = {"name": given} if isinstance(given, str) else given
    if not isinstance(body, Mapping):
        raise ConfigError(f"privacy.clip {given!r}: expected `adaptive`", hint="`clip: adaptive`")
    for key in body:
        if key not in ("name", "quantile"):
            hint = did_you_mean(str(key), ("name", "quantile"))
            raise UnknownKey(f"unknown key `privacy.clip.{key}`", hint=hint)
    one_of("privacy.clip", body.get("name", ADAPTIVE), (ADAPTIVE,))
    quantile = real("privacy.clip.quantile", body.get("quantile", 0.5), above=0, below=1)
    return {"name": ADAPTIVE, "quantile": quantile}


def _budget(given: Any) -> Budget:
    known = {f.name for f in fields(Budget)}
    if not isinstance(given, Mapping) or "epsilon" not in given:
        raise ConfigError(
            f"privacy.budget {given!r}: expected a limit", hint="`{epsilon: 8, population: heart}`"
        )
    for key in given:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise UnknownKey(f"unknown key `privacy.budget.{key}`", hint=hint)
    return Budget(**given)
