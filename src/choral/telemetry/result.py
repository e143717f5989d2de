"""What a run gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from choral._version import __version__
from choral.core.errors import StoreError
from choral.core.params import Params, Spec
from choral.core.plan import Local
from choral.core.protection import Protection, RecordPromise
from choral.core.release import NO_MECHANISM, PUBLIC
from choral.federation.protection import first_clip, stepped
from choral.federation.setup import RunSetup
from choral.federation.view import RunView
from choral.privacy.vocabulary import Mechanism, Poisson, PrivacyUnit, Relation


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run.

    Attributes:
        run_id: Unique name of the run.
        name: The federation's name.
        status: `completed`, `failed` or `stopped`.
        reason: Why it failed or stopped; empty otherwise.
        engine: Where the clients' work was done.
        seed: Seed of every reproducible draw.
        strategy: Name of the strategy.
        selection: Name of the selector.
        aggregation: Kind of sum, as in the JSON.
        rounds: One object per committed round, as in the JSON.
        metrics: The last evaluation: of the held-out set, else of all clients together; None for
            what is no finite number.
        client_metrics: Client to its own last evaluation.
        coverage: Who took part how often.
        failures: Clients that failed, and when.
        model_sha256: Digest of the model's file.
        model_path: That file, or None where the run has no folder.
        duration_s: Wall seconds.
        finished: When it ended, ISO 8601 in UTC.
        params: The model, name to array.
        spec: Its schema.
        protection: Clip, noise and promise of a run with differential privacy, else None.
        records: What each record was promised in a run that protects records, else None.
        local: Local terms of such a run.
        notes: What there is to know of it.
        ledger: Population, length and head of the privacy ledger at the last release, or None.
        evaluated: Whether clients' own examples measured the model.
        identity: In a deployment, `verified` where certificates prove who the clients are, else
            `unverified`.
    """

    run_id: str
    name: str
    status: str
    reason: str
    engine: str
    seed: int
    strategy: str
    selection: str
    aggregation: Mapping[str, Any]
    rounds: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, float | None]
    client_metrics: Mapping[str, Mapping[str, float | None]]
    coverage: Mapping[str, Any]
    failures: Sequence[Mapping[str, Any]]
    model_sha256: str
    duration_s: float
    finished: str
    params: Params = field(repr=False)
    spec: Spec = field(repr=False)
    model_path: Path | None = None
    identity: str | None = None
    protection: Protection | None = None
    records: RecordPromise | None = None
    local: Local | None = None
    notes: Sequence[str] = ()
    ledger: Mapping[str, Any] | None = None
    evaluated: bool = False

    @staticmethod
    def of(
        setup: RunSetup,
        view: RunView,
        *,
        engine: str,
        params: Params,
        spec: Spec,
        coverage: Mapping[str, Any],
        duration_s: float,
        finished: str,
        identity: str | None = None,
    ) -> Result:
        """Return the result that a view tells."""
        return Result(
            run_id=setup.run_id,
            name=setup.name,
            status=view.status,
            reason=view.reason,
            engine=engine,
            seed=setup.seed,
            strategy=setup.strategy.name,
            selection=setup.selector.name,
            aggregation=_aggregation(setup, identity),
            rounds=tuple(view.rounds),
            metrics=dict(view.metrics),
            client_metrics=dict(view.client_metrics),
            coverage=coverage,
            failures=tuple(view.failures),
            model_sha256=view.model_sha256,
            duration_s=duration_s,
            finished=finished,
            params=params,
            spec=spec,
            identity=identity,
            protection=setup.protection,
            records=setup.records,
            local=setup.local,
            notes=setup.notes,
            ledger=view.ledger,
            evaluated=setup.evaluation.clients or bool(view.client_metrics),
        )

    @property
    def epsilon(self) -> float | None:
        """Upper bound of the privacy loss, or None where no mechanism ran."""
        spent = [r["epsilon"] for r in self.rounds if r.get("epsilon") is not None]
        return max(spent) if spent else None

    @property
    def privacy(self) -> dict[str, Any]:
        """Who sees what and what the model reveals, as in the JSON."""
        if self.records is not None:
            return self._record_privacy(self.records)
        terms, secure = self.protection, self.aggregation["kind"] == "secure"
        if terms is None:
            return {
                "mode": NO_MECHANISM,
                "epsilon": self.epsilon,
                "delta": None,
                "unit": None,
                "level": "L2" if secure else "L0",
            }
        return {
            "mode": terms.mode,
            "epsilon": self.epsilon,
            "delta": terms.delta,
            "unit": terms.unit,
            "relation": terms.relation,
            "level": self._level,
            "mechanism": terms.mechanism,
            "noise_multiplier": terms.multiplier,
            "max_norm": terms.max_norm,
            "sampling": dict(terms.sampling),
            **self._clip(terms),
            "planned_epsilon": terms.epsilon,
            "ledger": None if self.ledger is None else dict(self.ledger),
            **self._remarks,
        }

    def _clip(self, terms: Protection) -> dict[str, Any]:
        """Return where an adaptive clip went; nothing where there is none."""
        first = first_clip(terms)
        if first is None:
            return {}
        last = stepped(first, self.rounds).bound
        noise = terms.count_sigma / terms.expected
        return {"clip": {"quantile": terms.quantile, "noise": noise, "last": last}}

    @property
    def _level(self) -> str:
        """Level of a run with a mechanism."""
        if self.aggregation["kind"] != "secure":
            return "L1"
        return "L3" if self.aggregation.get("threat_model") == "active" else "L2"

    @property
    def _remarks(self) -> dict[str, Any]:
        """What a private run gives away besides its models, and what else there is to know."""
        notes = list(self.notes)
        if self.evaluated:
            notes.append("what clients measure on their own examples is reported without noise")
        elif not self.metrics:
            notes.append(
                "nothing measured the models: give a held-out set that is nobody's, or have "
                "clients report what they measure, without noise (`evaluation: {clients: true}`)"
            )
        return {"evaluation": NO_MECHANISM if self.evaluated else PUBLIC, "notes": notes}

    def _record_privacy(self, promise: RecordPromise) -> dict[str, Any]:
        """Return what the records of clients were promised, and who sees what."""
        terms = None if self.local is None else self.local.record
        return {
            "mode": "record",
            "epsilon": self.epsilon,
            "delta": promise.delta,
            "unit": PrivacyUnit.RECORD.value,
            "relation": Relation.ADD_REMOVE.value,
            "level": self._level,
            "mechanism": Mechanism.GAUSSIAN.value,
            "noise_multiplier": None if terms is None else terms.noise_multiplier,
            "max_grad_norm": None if terms is None else terms.max_grad_norm,
            "sampling": {"kind": Poisson.name},
            "planned_epsilon": promise.planned,
            **self._remarks,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the run as one JSON object; `docs/reference/result.md` describes it."""
        body: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "run_id",
                "name",
                "status",
                "reason",
                "engine",
                "seed",
                "strategy",
                "selection",
                "aggregation",
            )
        }
        return body | {
            "rounds": [dict(r) for r in self.rounds],
            "metrics": dict(self.metrics),
            "client_metrics": {c: dict(m) for c, m in self.client_metrics.items()},
            "coverage": dict(self.coverage),
            "privacy": self.privacy,
            "model_sha256": self.model_sha256,
            "model_path": None if self.model_path is None else str(self.model_path),
            "duration_s": self.duration_s,
            "finished": self.finished,
            "choral": __version__,
            "failures": [dict(f) for f in self.failures],
            **({} if self.identity is None else {"identity": self.identity}),
        }

    def report(self, path: str | Path) -> Path:
        """Write a self-contained HTML page with plots and tables; return its path.

        Raises:
            StoreError: The page cannot be written there.
        """
        from choral.telemetry.report import render

        target = Path(path)
        try:
            target.write_text(render(self.to_json()), encoding="utf-8")
        except OSError as error:
            raise StoreError(f"cannot write {target}: {error.strerror}") from None
        return target


def _aggregation(setup: RunSetup, identity: str | None) -> dict[str, Any]:
    """Return how updates became one.

    Where nobody proves who the clients are, the coordinator could have invented some: it must be
    honest for its sums to hide anything.
    """
    body = setup.aggregation_json()
    if identity == "unverified" and "threat_model" in body:
        body["threat_model"] = "semi-honest"
    return body


_WHO: Final = frozenset({"clients", "client_ids", "population"})
"""What a run's configuration tells of who its clients are."""


def lineage(result: Result, setup: RunSetup, first_sha256: str) -> dict[str, Any]:
    """Return where a model comes from, as the JSON beside it.

    It goes where the model goes, so it tells no more about the clients than the noise allows.

    Args:
        result: The run that made it.
        setup: Its setup.
        first_sha256: Digest of the model before round 1.
    """
    sizes = [r["completed"] for r in result.rounds]
    config = dict(setup.config)
    terms = setup.protection
    if terms is not None and terms.relation == "add_remove":
        # Whether somebody is there is hidden by the noise: what says so does not travel beside it.
        sizes = [round(terms.expected)] * len(sizes)
        config = {name: value for name, value in config.items() if name not in _WHO}
    return {
        "model_sha256": result.model_sha256,
        "parent_sha256": first_sha256,
        "created": result.finished,
        "choral": __version__,
        "run_id": result.run_id,
        "name": result.name,
        "seed": result.seed,
        "rounds": len(result.rounds),
        "task": setup.task_name,
        "strategy": result.strategy,
        "selection": result.selection,
        "aggregation": dict(result.aggregation),
        "privacy": result.privacy,
        "metrics": dict(result.metrics),
        "cohort_sizes": sizes,
        "spec": {
            "digest": result.spec.digest,
            "tensors": [
                {"name": t.name, "shape": list(t.shape), "dtype": t.dtype, "role": t.role.value}
                for t in result.spec.tensors
            ],
        },
        "data_schema": setup.config.get("data_schema"),
        "config": config,
    }
