"""Putting a run together from what people give: names or objects, counts or fractions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from choral import robust, strategies
from choral import selection as selections
from choral.core.aggregation import Aggregation, Plain, Secure
from choral.core.errors import ConfigError, NotBuilt, PlanError, UnknownKey, did_you_mean
from choral.core.exact import grid_setting
from choral.core.plan import Local
from choral.core.selection import Selector
from choral.core.strategy import AnyStrategy
from choral.core.task import ClientSource, Task
from choral.core.transform import Kind, Reducer, WeightedMean, check_chain
from choral.federation.calibration import mode_of, record_terms, round_for
from choral.federation.policy import RoundPolicy, RunPolicy, clients_of
from choral.federation.secure import check_cohort, quorum_of
from choral.federation.setup import Evaluation, RunSetup
from choral.privacy.terms import privacy_of


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
    privacy: Any = None,
    arguments: str = "",
    test_fraction: float = 0.0,
    population: int | None = None,
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
        aggregation: `plain`, `secure`, `{secure: {…}}` with fields of `Secure`, or None for plain.
        local: Hyper-parameters of local training; what is not given is the task's own.
        round: Fields of `RoundPolicy` but `clients`.
        evaluation: How the model is measured.
        evaluate_every: Rounds between evaluations.
        encoding: `range`, `weight_unit`, `weight_cap`, and `metrics` with the bounds of what
            clients measure into a secure sum.
        privacy: A `Privacy`, a mapping with its fields, or None.
        arguments: Of a built-in model, as canonical JSON.
        test_fraction: Part of each client's examples that is held out, in [0, 1).
        population: Number of clients, where the source does not have all of them yet.
        config: The configuration as JSON.

    Raises:
        ConfigError: Something is unknown, out of its range, or does not compose.
    """
    terms = aggregation_of(aggregation)
    check_task(task, task_name)
    grid = _grid(encoding)
    wish = privacy_of(privacy)
    mode = None if wish is None else mode_of(wish, terms)
    complete = population is None
    if population is None:
        population = len(source.ids)
    wanted = _wanted(clients_per_round, population)
    if selection is None and mode == "central" and complete and wanted < population:
        selection = "poisson"  # the one draw that amplifies, so the noise can be less
    selector = selector_of(selection)
    policy = _round_policy(wanted, round, terms)
    check_secure(terms, policy, population)
    if mode is not None:
        policy = round_for(
            mode, policy, selection=selector.name, population=population, complete=complete
        )
    work = local if isinstance(local, Local) else local_of(task, local)
    if wish is not None and mode == "record":
        work = record_terms(work, wish, rounds)
    return RunSetup(
        run_id=run_id,
        name=name,
        task=task,
        task_name=task_name,
        source=source,
        strategy=strategy_of(strategy),
        selector=selector,
        policy=RunPolicy(rounds, policy, evaluate_every),
        local=work,
        seed=seed,
        evaluation=evaluation or Evaluation(),
        chain=check_chain((), _reducer(terms), terms.kind),
        aggregation=terms,
        arguments=arguments,
        test_fraction=test_fraction,
        population=population,
        strata=getattr(selector, "by", None),
        privacy=wish,
        complete=complete,
        config=config or {},
        **grid,
    )


def _wanted(asked: float | None, population: int) -> int:
    """Return how many of the clients a round asks for."""
    if not population:
        raise ConfigError("there are no clients", hint="look at the clients' data")
    wanted = clients_of(asked, population)
    if wanted > population:
        raise ConfigError(
            f"clients_per_round asks for {wanted} of {population} clients",
            hint=f"at most {population}",
        )
    return wanted


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


def aggregation_of(value: Any) -> Aggregation:
    """Return how updates become one, from what people write.

    Args:
        value: None, `plain`, `secure`, `{secure: {…}}`, or an object of `Plain` or `Secure`.

    Raises:
        ConfigError: It is none of these, or a term of it is wrong.
        PlanError: A rule that needs every update.
        NotBuilt: `{rule: …}` over plain updates.
    """
    if isinstance(value, Plain | Secure):
        return value
    if value in (None, "plain"):
        return Plain()
    kind, given = value, None
    if isinstance(value, Mapping) and value:
        kind, given = next(iter(value.items()))
    if kind in ("rule", "robust"):
        raise NotBuilt(
            f"`aggregation: {kind}` over single updates is not built yet",
            hint="use `plain`, or `{secure: {groups: …, rule: …}}`",
        )
    if kind != "secure" or (isinstance(value, Mapping) and len(value) > 1):
        raise ConfigError(
            f"unknown aggregation `{value}`", hint=did_you_mean(str(kind), ["plain", "secure"])
        )
    terms = Secure(**_checked("aggregation.secure", given, {f.name for f in fields(Secure)}))
    _check_rule(terms)
    return terms


def _check_rule(terms: Secure) -> None:
    """Refuse a rule that would need every update, and groups without a rule."""
    if terms.groups == 1:
        check_chain((), _reducer(terms), terms.kind)
        return
    if terms.rule is None:
        raise PlanError(
            f"{terms.groups} groups without a rule over them",
            hint="such as `rule: median`; their mean is what one group gives, and shows less",
        )
    rule = rule_of(terms)
    if not rule.breakdown(terms.groups):
        raise PlanError(
            f"{rule.name} over {terms.groups} groups withstands no liar",
            hint="more groups" + (", or a larger `trim`" if rule.name == "trimmed_mean" else ""),
        )


def rule_of(terms: Secure) -> robust.Rule:
    """Return the rule over the groups' means.

    Raises:
        ConfigError: There is no such rule, or its arguments are wrong.
    """
    name, arguments = _named("aggregation.secure.rule", terms.rule, "median")
    return robust.build(name, **arguments)


@dataclass(frozen=True, slots=True)
class _Each:
    """A rule over single updates, which no secure sum can follow."""

    name: str
    kind: Kind = Kind.EACH


def _reducer(terms: Aggregation) -> Reducer:
    """Return how the updates of one sum become one."""
    if isinstance(terms, Secure) and terms.rule is not None and terms.groups == 1:
        return _Each(_named("aggregation.secure.rule", terms.rule, "")[0])
    return WeightedMean()


def check_secure(terms: Aggregation, policy: RoundPolicy, population: int) -> None:
    """Refuse rounds whose secure sums could never be made.

    Raises:
        PlanError: Cohort or quorum are below the floor, or a sum could overflow.
    """
    if not isinstance(terms, Secure):
        return
    invited = policy.invited(population)
    check_cohort(terms, invited)
    floor = quorum_of(terms, invited)
    asked = policy.quorum
    if asked is not None and asked < floor:
        raise PlanError(
            f"round.quorum {asked} of {invited} clients is below what a secure sum needs, {floor}",
            hint=f"`quorum: {floor}` or none; a sum of fewer would give single updates away",
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


def _round_policy(clients: int, given: Mapping[str, Any] | None, terms: Aggregation) -> RoundPolicy:
    known = {f.name for f in fields(RoundPolicy)} - {"clients", "secure", "whole"}
    secure = terms if isinstance(terms, Secure) else None
    return RoundPolicy(clients, **_checked("round", given, known), secure=secure)


def _grid(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the settings of the sum's grid; one that is None is not given."""
    names = ("range", "weight_unit", "weight_cap")
    checked = _checked("encoding", given, {*names, "metrics"})
    grid = {n: grid_setting(n, checked[n]) for n in names if checked.get(n) is not None}
    metrics = checked.get("metrics") or {}
    if not isinstance(metrics, Mapping):
        raise ConfigError(
            f"encoding.metrics {metrics!r}: expected names and bounds", hint="`{accuracy: 1}`"
        )
    return {**grid, "metrics": {n: grid_setting(f"metrics.{n}", v) for n, v in metrics.items()}}


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
