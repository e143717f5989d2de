"""Putting a run together from what people give: names or objects, counts or fractions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from choral import selection as selections
from choral import strategies
from choral.core.errors import ConfigError, NotBuilt, UnknownKey, did_you_mean
from choral.core.plan import Local
from choral.core.selection import Selector
from choral.core.strategy import AnyStrategy
from choral.core.task import ClientSource, Task
from choral.core.transform import WeightedMean, check_chain
from choral.federation.policy import RoundPolicy, RunPolicy, clients_of
from choral.federation.setup import Evaluation, RunSetup


def compose(
    task: Task,
    source: ClientSource,
    *,
    run_id: str,
    seed: int,
    name: str,
    task_name: str,
    rounds: int,
    clients_per_round: float | None = None,
    strategy: Any = None,
    selection: Any = None,
    aggregation: Any = None,
    local: Local | Mapping[str, Any] | None = None,
    round: Mapping[str, Any] | None = None,
    evaluation: Evaluation | None = None,
    evaluate_every: int = 1,
    encoding: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> RunSetup:
    """Return the setup of a run.

    Args:
        task: The local work.
        source: The clients.
        run_id: Unique name of the run.
        seed: Seed of the run, 0 to 2^64 - 1.
        name: The federation's name.
        task_name: How the task is written.
        rounds: Rounds to commit.
        clients_per_round: A count, a fraction, or None for everyone.
        strategy: A strategy, its name, or a mapping of `name` and arguments; default FedAvg.
        selection: Likewise; default uniform.
        aggregation: `plain`, or None for it.
        local: Hyper-parameters of local training; what is not given is the task's own.
        round: Fields of `RoundPolicy` but `clients`.
        evaluation: How the model is measured.
        evaluate_every: Rounds between evaluations.
        encoding: `range` and `weight_cap`.
        config: The configuration as JSON.

    Raises:
        ConfigError: Something is unknown, out of its range, or does not compose.
    """
    check_aggregation(aggregation)
    population = len(source.ids)
    if not population:
        raise ConfigError("there are no clients", hint="look at the clients' data")
    wanted = clients_of(clients_per_round, population)
    if wanted > population:
        raise ConfigError(
            f"clients_per_round asks for {wanted} of {population} clients",
            hint=f"at most {population}",
        )
    selector = selector_of(selection)
    return RunSetup(
        run_id=run_id,
        name=name,
        task=task,
        task_name=task_name,
        source=source,
        strategy=strategy_of(strategy),
        selector=selector,
        policy=RunPolicy(rounds, _round_policy(wanted, round or {}), evaluate_every),
        local=local if isinstance(local, Local) else local_of(task, local or {}),
        seed=seed,
        evaluation=evaluation or Evaluation(),
        chain=check_chain((), WeightedMean(), "plain"),
        strata=getattr(selector, "by", None),
        config=config or {},
        **_checked("encoding", encoding or {}, {"range", "weight_cap"}),
    )


def strategy_of(value: Any) -> AnyStrategy:
    """Return a strategy from an object, a name, a mapping, or None for FedAvg."""
    if value is None or isinstance(value, str | Mapping):
        name, arguments = _named("strategy", value, "fedavg")
        return strategies.build(name, **arguments)
    built: AnyStrategy = value
    return built


def selector_of(value: Any) -> Selector:
    """Return a selector from an object, a name, a mapping, or None for uniform."""
    if value is None or isinstance(value, str | Mapping):
        name, arguments = _named("selection", value, "uniform")
        return selections.build(name, **arguments)
    built: Selector = value
    return built


def local_of(task: Task, given: Mapping[str, Any]) -> Local:
    """Return the local hyper-parameters: those given, else the task's own, else the defaults.

    Raises:
        UnknownKey: A key that `Local` does not have.
        ConfigError: A value out of its range.
    """
    own: Mapping[str, Any] = getattr(task, "local_defaults", {})
    return Local(**{**own, **_checked("local", given, {f.name for f in fields(Local)})})


def check_aggregation(aggregation: Any) -> None:
    """Refuse what is not built yet, by name, and what does not exist."""
    if aggregation in (None, "plain"):
        return
    kind = next(iter(aggregation), None) if isinstance(aggregation, Mapping) else aggregation
    if kind in ("secure", "rule"):
        raise NotBuilt(f"`aggregation: {kind}` is not built yet", hint="use `aggregation: plain`")
    raise ConfigError(
        f"unknown aggregation `{kind}`", hint=did_you_mean(str(kind), ["plain", "secure"])
    )


def _named(what: str, value: Any, default: str) -> tuple[str, dict[str, Any]]:
    """Return name and arguments of `name` or `{name: …, argument: …}`."""
    if value is None:
        return default, {}
    if isinstance(value, str):
        return value, {}
    arguments = dict(value)
    if not isinstance(arguments.get("name"), str):
        raise ConfigError(f"{what} {arguments}: expected a name", hint=f"`{{name: {default}}}`")
    return arguments.pop("name"), arguments


def _round_policy(clients: int, given: Mapping[str, Any]) -> RoundPolicy:
    known = {f.name for f in fields(RoundPolicy)} - {"clients"}
    return RoundPolicy(clients, **_checked("round", given, known))


def _checked(what: str, given: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """Return `given` as a dictionary, or name the key that nobody reads."""
    for key in given:
        if key not in known:
            raise UnknownKey(f"unknown key `{what}.{key}`", hint=did_you_mean(key, known))
    return dict(given)
