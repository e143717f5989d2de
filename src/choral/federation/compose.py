"""Putting a run together from what people give: names or objects, counts or fractions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from choral import selection as selections
from choral import strategies
from choral.core.errors import ConfigError, NotBuilt, UnknownKey, did_you_mean
from choral.core.exact import grid_setting
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
        encoding: `range`, `weight_unit` and `weight_cap`.
        config: The configuration as JSON.

    Raises:
        ConfigError: Something is unknown, out of its range, or does not compose.
    """
    check_aggregation(aggregation)
    check_task(task, task_name)
    grid = _grid(encoding)
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
        policy=RunPolicy(rounds, _round_policy(wanted, round), evaluate_every),
        local=local if isinstance(local, Local) else local_of(task, local),
        seed=seed,
        evaluation=evaluation or Evaluation(),
        chain=check_chain((), WeightedMean(), "plain"),
        strata=getattr(selector, "by", None),
        config=config or {},
        **grid,
    )


def strategy_of(value: Any) -> AnyStrategy:
    """Return a strategy from an object, a name, a mapping, or None for FedAvg.

    Raises:
        ConfigError: It is none of these, is a class, or lacks a method.
    """
    if value is None or isinstance(value, str | Mapping):
        name, arguments = _named("strategy", value, "fedavg")
        return strategies.build(name, **arguments)
    built: AnyStrategy = _object("strategy", value, ("init", "plan", "step"))
    return built


def selector_of(value: Any) -> Selector:
    """Return a selector from an object, a name, a mapping, or None for uniform.

    Raises:
        ConfigError: It is none of these, is a class, or cannot be called.
    """
    if value is None or isinstance(value, str | Mapping):
        name, arguments = _named("selection", value, "uniform")
        return selections.build(name, **arguments)
    built: Selector = _object("selection", value, ("__call__",))
    return built


def check_task(task: Any, name: str) -> None:
    """Raise `ConfigError` unless `task` is an object that can train.

    Args:
        task: What was given as a task.
        name: How it is written.
    """
    _refuse_class(f"task `{name}`", task)
    lacking = _lacking(task, ("init", "train", "evaluate"))
    if lacking:
        raise ConfigError(
            f"task `{name}` is of type {type(task).__name__} without {lacking}",
            hint="a task has the methods init, train and evaluate",
        )


def local_of(task: Task, given: Mapping[str, Any] | None) -> Local:
    """Return the local hyper-parameters: those given, else the task's own, else the defaults.

    Raises:
        UnknownKey: A key that `Local` does not have.
        ConfigError: A value out of its range.
    """
    known = {f.name for f in fields(Local)}
    own = _checked("local_defaults", getattr(task, "local_defaults", None), known)
    return Local(**{**own, **_checked("local", given, known)})


def check_aggregation(aggregation: Any) -> None:
    """Refuse what is not built yet, by name, and what does not exist."""
    if aggregation in (None, "plain"):
        return
    kind = next(iter(aggregation), None) if isinstance(aggregation, Mapping) else aggregation
    if kind in ("secure", "rule", "robust"):
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


def _object(what: str, value: Any, methods: tuple[str, ...]) -> Any:
    """Return an object of the user's own that has a name and these methods."""
    _refuse_class(what, value)
    lacking = _lacking(value, methods)
    if lacking:
        raise ConfigError(
            f"{what} is of type {type(value).__name__} without {lacking}",
            hint=f"expected a name, `{{name: …}}` or an object with {', '.join(methods)} and name",
        )
    if not isinstance(getattr(value, "name", None), str):
        raise ConfigError(
            f"{what} is of type {type(value).__name__} without a `name`",
            hint='such as the attribute `name = "mine"`: results and messages call it that',
        )
    return value


def _refuse_class(what: str, value: Any) -> None:
    """Raise where a class is given and one of its objects was meant."""
    if isinstance(value, type):
        raise ConfigError(
            f"{what} is the class {value.__name__}, expected an object of it",
            hint=f"write `{value.__name__}(…)`",
        )


def _lacking(value: Any, methods: tuple[str, ...]) -> str:
    """Return the methods that `value` does not have, for a message; empty where it has all."""
    return ", ".join(f"`{m}`" for m in methods if not callable(getattr(value, m, None)))


def _round_policy(clients: int, given: Mapping[str, Any] | None) -> RoundPolicy:
    known = {f.name for f in fields(RoundPolicy)} - {"clients"}
    return RoundPolicy(clients, **_checked("round", given, known))


def _grid(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the settings of the sum's grid; one that is None is not given."""
    checked = _checked("encoding", given, {"range", "weight_unit", "weight_cap"})
    return {name: grid_setting(name, v) for name, v in checked.items() if v is not None}


def _checked(what: str, given: Any, known: set[str]) -> dict[str, Any]:
    """Return what was given as a dictionary, or name the key that nobody reads."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{what} {given!r}: expected keys and values", hint=did_you_mean("", known)
        )
    for key in given:
        if key not in known:
            raise UnknownKey(f"unknown key `{what}.{key}`", hint=did_you_mean(str(key), known))
    return dict(given)
