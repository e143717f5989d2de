"""A run as its JSON: the result once there is one, and the same keys before."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from choral.coordinator.desk import Desk
from choral.coordinator.population import Population
from choral.coordinator.runs import ENGINE, Run, reached
from choral.core.params import Params, Spec
from choral.core.selection import History
from choral.federation.compose import aggregation_of
from choral.selection.coverage import coverage
from choral.telemetry.result import Result

_NOBODY: Final = coverage(Population(), History({}, {})).as_json()


def describe(run: Run, desk: Desk, *, verified: bool) -> dict[str, Any]:
    """Return a run as JSON: its result, or as much of it as there is by now.

    Args:
        run: The run.
        desk: The clients, and why they were refused.
        verified: Whether clients' identities are proved by certificates.
    """
    refusals = {c: p.refusal for c, p in sorted(desk.presences().items()) if p.refusal}
    body = run.result
    if body is None:
        identity = "verified" if verified else "unverified"
        found = _waiting(run, identity) if run.setup is None else _going(run, identity)
        body = found.to_json() | {"status": run.status, "reason": reason(run), "finished": None}
    code = "" if run.error is None else run.error.code
    return body | {"refusals": refusals, "code": code}


def reason(run: Run) -> str:
    """Return why a run is where it is; while it goes on, what it waits for."""
    if run.status == "running" and run.actor is not None:
        return run.actor.waiting
    return run.reason


def _going(run: Run, identity: str) -> Result:
    """Return the result of a run that goes on, or that a fault has ended."""
    setup, actor = run.setup, run.actor
    if setup is None or actor is None:
        return _waiting(run, identity)
    conductor = actor.conductor
    return Result.of(
        setup,
        conductor.view,
        engine=ENGINE,
        params=conductor.params,
        spec=conductor.spec,
        coverage=reached(setup, conductor.machine.history),
        duration_s=_seconds(run),
        finished="",
        identity=identity,
    )


def _waiting(run: Run, identity: str) -> Result:
    """Return the result of a run whose clients are not known yet: its file is."""
    file = run.file
    return Result(
        run_id=run.id,
        name=run.name,
        status=run.status,
        reason=run.reason,
        engine=ENGINE,
        seed=file.seed or 0,
        strategy=_name(file.strategy, "fedavg"),
        selection=_name(file.selection, "uniform"),
        aggregation={"kind": aggregation_of(file.aggregation).kind},
        rounds=(),
        metrics={},
        client_metrics={},
        coverage=_NOBODY,
        failures=(),
        model_sha256="",
        duration_s=_seconds(run),
        finished="",
        params=Params({}),
        spec=Spec(()),
        identity=identity,
    )


def _seconds(run: Run) -> float:
    """Return for how long a run has worked, without its wait for clients."""
    if run.started is None:
        return 0.0
    over = datetime.now(UTC).timestamp() if run.over is None else run.over
    return over - run.started


def _name(given: str | Mapping[str, Any] | None, default: str) -> str:
    """Return the name of a strategy or selection as people write it."""
    name = given.get("name", default) if isinstance(given, Mapping) else given
    return str(name or default)
