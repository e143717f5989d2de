"""What a plan promises about the privacy of what its round releases: terms that stand in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from choral.core.checks import one_of, real, whole
from choral.core.errors import ConfigError

MODES: Final = ("central", "distributed")
"""Where the noise is added: at a coordinator that is trusted, or at the clients."""

_MECHANISMS: Final = ("gaussian", "skellam", "discrete_gaussian")


@dataclass(frozen=True, slots=True)
class Protection:
    """Clip, noise and the epsilon of a run, the same in all of its plans.

    Clients compute the epsilon again from the other numbers, and refuse a smaller one.

    Attributes:
        mode: `central` or `distributed`.
        mechanism: Kind of the noise.
        max_norm: C: L2 norm that each client clips its update to; above 0.
        multiplier: z: noise over sensitivity, above 0; of which the others are made.
        epsilon: Upper bound over all rounds of the run.
        delta: That it goes with.
        unit: Whose data.
        relation: Between which worlds.
        rounds: Releases that the run plans.
        selection: Name of the selection that draws cohorts.
        sampling: What the epsilon takes credit for, as `privacy.sampling_json` writes it.
        expected: Central: expected size of a cohort, by which the noised sum is divided; else 0.
        scale: Distributed: grid units for a change of 1; else 0.
        variance: Distributed: of the noise of honest survivors, in grid units squared; else 0.
        cohort: Distributed: the most clients in a sum; else 0.
        survivors: Distributed: the fewest clients that a sum is opened for; else 0.
        corrupt: Distributed: survivors who may leave out their noise.
        quantile: Central: fraction of clients that an adaptive clip aims to leave unclipped; 0 for
            a clip that stays as it is.
        count_sigma: Central: standard deviation of the noise on how many were not clipped; else 0.

    Raises:
        ConfigError: One of them is out of range.
    """

    mode: str
    mechanism: str
    max_norm: float
    multiplier: float
    epsilon: float
    delta: float
    unit: str
    relation: str
    rounds: int
    selection: str
    sampling: Mapping[str, Any] = field(hash=False)
    expected: float = 0.0
    scale: float = 0.0
    variance: float = 0.0
    cohort: int = 0
    survivors: int = 0
    corrupt: int = 0
    quantile: float = 0.0
    count_sigma: float = 0.0

    def __post_init__(self) -> None:
        one_of("privacy.mode", self.mode, MODES)
        one_of("privacy.mechanism", self.mechanism, _MECHANISMS)
        above = ["max_norm", "multiplier", "epsilon"]
        above += ["expected"] if self.central else ["scale", "variance"]
        for name in above:
            value = real(f"privacy.{name}", getattr(self, name), above=0)
            object.__setattr__(self, name, value)
        quantile = real("privacy.quantile", self.quantile, least=0, below=1)
        object.__setattr__(self, "quantile", quantile)
        if quantile and not self.central:
            raise ConfigError("privacy.quantile: an adaptive clip goes with central noise alone")
        for name in ("expected", "scale", "variance", "count_sigma"):
            value = real(f"privacy.{name}", getattr(self, name), least=0)
            object.__setattr__(self, name, value)
        delta = real("privacy.delta", self.delta, above=0, below=1)
        object.__setattr__(self, "delta", delta)
        whole("privacy.rounds", self.rounds, least=1)
        for name in ("cohort", "survivors", "corrupt"):
            whole(f"privacy.{name}", getattr(self, name), least=0)
        if not isinstance(self.sampling, Mapping):
            raise ConfigError(f"privacy.sampling {self.sampling!r}: expected an object")

    @property
    def central(self) -> bool:
        """Whether the coordinator adds the noise."""
        return self.mode == "central"

    def as_json(self) -> dict[str, Any]:
        """Return the terms as a JSON object, without those of an adaptive clip where it is none."""
        body = asdict(self)
        if not self.quantile:
            del body["quantile"], body["count_sigma"]
        return body


@dataclass(frozen=True, slots=True)
class RecordPromise:
    """What a run promises each record of its clients, whose own training adds the noise.

    Attributes:
        delta: That every epsilon goes with, in (0, 1).
        rounds: Rounds that the run plans.
        dimension: Trained coordinates of a client.
        limit: Epsilon that no record may pass, over all trainings of the run; None for none.
        planned: Upper bound over all planned rounds; None where nobody knows yet who takes part.

    Raises:
        ConfigError: One of them is out of range.
    """

    delta: float
    rounds: int
    dimension: int
    limit: float | None = None
    planned: float | None = None

    def __post_init__(self) -> None:
        real("privacy.delta", self.delta, above=0, below=1)
        whole("privacy.rounds", self.rounds, least=1)
        whole("privacy.dimension", self.dimension, least=1)
        for name in ("limit", "planned"):
            if getattr(self, name) is not None:
                real(f"privacy.{name}", getattr(self, name), above=0)
