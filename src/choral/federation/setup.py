"""Everything that defines a run, as one value, and the plan of each of its rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from choral.core.aggregation import Aggregation, Grid, Plain, Secure
from choral.core.errors import ConfigError, PlanError
from choral.core.exact import Encoding, power_of_two
from choral.core.keys import Key
from choral.core.params import ClientId, Params, Spec
from choral.core.plan import Cohort, Local, Objective, Plan, Terms
from choral.core.protection import Protection, RecordPromise
from choral.core.selection import Selector
from choral.core.strategy import AnyStrategy
from choral.core.task import ClientSource, Task, spec_of
from choral.core.transform import Chain
from choral.crypto.ring import Ring
from choral.federation.participant import NORM, Participant, own_code, round_key
from choral.federation.policy import RunPolicy
from choral.federation.secure import extras_of, grid_of, promise_of
from choral.privacy.central import Central
from choral.privacy.rotation import padded
from choral.privacy.terms import Privacy

_CAP = 2**10
"""How far above the largest known client a weight may be before it is refused."""

_LARGEST_LOSS = 64.0
"""Bound of the mean training loss in a secure sum, unless another one is declared."""


def split_seed(seed: int) -> int:
    """Return the seed of clients' splits into training and test parts, from the run's seed."""
    return Key.root(seed).fold("split").seed64()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How the global model is measured.

    Attributes:
        held_out: Examples that belong to no client, or None.
        clients: Measure on clients' own held-out parts, too.
    """

    held_out: Any = None
    clients: bool = True


@dataclass(frozen=True, slots=True)
class RunSetup:
    """A run before it starts.

    Attributes:
        run_id: Unique name of the run.
        name: Name that people gave the federation.
        task: The local work.
        task_name: How the task is written in configuration.
        source: The clients.
        strategy: How aggregates move the model.
        selector: How cohorts are chosen.
        policy: Rounds, quorum, deadlines.
        local: Hyper-parameters of local training.
        seed: Seed of every reproducible draw.
        range: Largest magnitude of a coordinate of one update, see `Encoding`.
        weight_unit: The weight that counts as 1; None follows the cohort's largest client.
        weight_cap: Weight above which a client is refused; None stands for 1 024 times the
            largest number of examples in the cohort.
        evaluation: How the model is measured.
        chain: Transforms between task and sum.
        aggregation: How the updates of a round become one.
        metrics: Bounds of what clients may measure into a secure sum, by name.
        arguments: Of a built-in model, as canonical JSON; empty for another task.
        test_fraction: Part of each client's examples that is held out.
        population: Number of clients.
        strata: Label by which coverage is reported, or None.
        privacy: What differential privacy is asked for, or None.
        complete: All clients are known before the run, and every draw is over all of them.
        protection: Clip and noise of its rounds, once `protection.protected` has found them.
        records: What it promises each record, once it is known; else None.
        notes: What whoever runs it should know of its privacy.
        config: The configuration as JSON, for lineage and to recognise a resumed run.
    """

    run_id: str
    name: str
    task: Task
    task_name: str
    source: ClientSource
    strategy: AnyStrategy
    selector: Selector
    policy: RunPolicy
    local: Local
    seed: int
    range: float = 256.0
    weight_unit: float | None = None
    weight_cap: float | None = None
    evaluation: Evaluation = field(default_factory=Evaluation)
    chain: Chain = field(default_factory=Chain)
    aggregation: Aggregation = field(default_factory=Plain)
    metrics: Mapping[str, float] = field(default_factory=dict)
    arguments: str = ""
    test_fraction: float = 0.0
    population: int = 0
    strata: str | None = None
    privacy: Privacy | None = None
    complete: bool = False
    protection: Protection | None = None
    records: RecordPromise | None = None
    notes: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Root of the run's named streams."""
        return Key.root(self.seed)

    def participant(self) -> tuple[Participant, Params]:
        """Return the client's side of the run, and the first global model.

        Raises:
            ConfigError: The task's `init` gives no model, or its roles do not fit.
            ClientError: The task's own code raised.
        """
        with own_code(f"`init` of task `{self.task_name}`"):
            first = self.task.init(self.key.fold("init"))
        if not isinstance(first, Mapping) or not all(isinstance(name, str) for name in first):
            raise ConfigError(
                f"`init` of task `{self.task_name}` returned {type(first).__name__}",
                hint="expected a mapping of tensor names to NumPy arrays",
            )
        params = Params({name: np.asarray(array) for name, array in first.items()})
        return Participant(self.task, spec_of(self.task, params), self.chain), params

    def plan(
        self,
        terms: Terms,
        cohort: Cohort,
        *,
        round: int,
        attempt: int,
        spec: Spec,
        model_sha256: str,
        max_norm: float | None = None,
    ) -> Plan:
        """Return the plan of an attempt; where privacy is promised, every client weighs the same.

        Args:
            terms: What the strategy asks for.
            cohort: Who takes part.
            round: Counted from 1.
            attempt: Counted from 1.
            spec: The model's schema.
            model_sha256: Digest of the model that clients start from.
            max_norm: Clip of the round, where it is another than the run began with.

        Raises:
            PlanError: Privacy is asked for, and nobody has found the noise that it takes.
        """
        if self.privacy is not None and self.protection is None and self.records is None:
            raise PlanError("a run with privacy and without noise")
        protection = self.protection
        if protection is not None:
            terms = replace(terms, weighting="uniform")
            if max_norm is not None:
                protection = replace(protection, max_norm=max_norm)
        return Plan(
            run_id=self.run_id,
            round=round,
            attempt=attempt,
            task=self.task_name,
            model_sha256=model_sha256,
            spec_digest=spec.digest,
            local=self.local,
            mu=terms.mu,
            weighting=terms.weighting,
            aggregation=self.aggregation,
            encoding=self._encoding(terms, cohort.clients, protection),
            goal=cohort.goal,
            quorum=cohort.quorum,
            deadline_s=self.policy.round.deadline_s,
            arguments=self.arguments,
            test_fraction=self.test_fraction,
            split_seed=split_seed(self.seed),
            key=round_key(self.key, round).state.hex(),
            privacy=protection,
            objective=Objective(mu=terms.mu),
        )

    def aggregation_json(self) -> dict[str, Any]:
        """Return how updates become one, as results tell it."""
        if not isinstance(self.aggregation, Secure):
            return self.aggregation.as_json()
        invited = self.policy.round.invited(self.population)
        return promise_of(self.aggregation, invited)

    def payload_bytes(self, spec: Spec) -> int:
        """Return the bytes in memory of the vector of one client's contribution."""
        if not isinstance(self.aggregation, Secure):
            return 4 * spec.vector_size
        size = spec.vector_size + extras_of(self._bounds)
        if self.protection is not None:
            size = padded(spec.vector_size)
        return size * Ring(self.aggregation.modulus_bits).dtype.itemsize

    @property
    def _bounds(self) -> dict[str, float]:
        """Bounds of what clients measure into a secure sum."""
        if self.protection is not None:
            return {}
        return {"train_loss": _LARGEST_LOSS, NORM: self.range, **self.metrics}

    def _encoding(
        self, terms: Terms, clients: Sequence[ClientId], protection: Protection | None
    ) -> Grid:
        """Return the grid of an attempt.

        Its unit follows the largest client where all tell their size.
        """
        if isinstance(self.aggregation, Secure):
            return self._ring_grid(self.aggregation, terms, clients)
        if protection is not None:
            return Central.grid_for(protection.max_norm)
        if terms.weighting == "uniform":
            return Encoding(self.range, 1.0, 1.0)
        unit = self._largest(clients) if self.weight_unit is None else self.weight_unit
        cap = unit * _CAP if self.weight_cap is None else min(self.weight_cap, unit * 2**20)
        return Encoding(self.range, unit, cap)

    def _ring_grid(self, secure: Secure, terms: Terms, clients: Sequence[ClientId]) -> Grid:
        """Return the grid of a secure attempt: no weight above its unit, which is w = 1."""
        cap = 1.0
        if terms.weighting != "uniform":
            cap = self._largest(clients) if self.weight_cap is None else self.weight_cap
        return grid_of(secure, len(clients), range=self.range, weight_cap=cap, metrics=self._bounds)

    def _largest(self, clients: Sequence[ClientId]) -> float:
        """Return the cohort's largest number of examples as a power of two, or a middling one.

        A deployment knows no more than that: clients tell no exact count.
        """
        sizes = [self.source.examples(client) for client in clients]
        known = [size for size in sizes if size is not None]
        if not known or len(known) < len(sizes):
            return Encoding().weight_unit
        return power_of_two(max(1, *known, 1))
