"""What a data owner allows, whatever a researcher asks for. What is not allowed is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import time
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from choral.client.settings import parse_section
from choral.config.federation import Section
from choral.config.yaml import load
from choral.core.aggregation import RingGrid, Secure
from choral.core.errors import ConfigError, PlanError, Refused
from choral.core.plan import Plan
from choral.federation.participant import NORM
from choral.federation.secure import min_cohort_of, sizes_of
from choral.privacy.vocabulary import DEFAULT_DELTA
from choral.secagg.parameters import CORRUPT, Suite
from choral.secagg.site import MAX_SUMS

ANY: Final = "*"
_DAY_S: Final = 86400.0
_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class PolicyFile(Section):
    """A site's policy; absent keys mean the strict default.

    Attributes:
        secure_aggregation: `required`, `preferred` or `off`.
        min_cohort: Fewest clients in a sum that this site joins.
        max_epsilon: Largest privacy loss; of a record over all runs where a plan protects records,
            by the site's own ledger. A run without a mechanism is allowed only where this is
            absent.
        delta: That goes with it in the site's ledger, which keeps its first one.
        tasks: Tasks that may run here, such as `heart_task:task` or `model:linear`; `"*"` for all.
        models: Digests of model schemas that may be trained; absent for all.
        metrics: Metrics that may leave, in sums.
        per_client_metrics: They may leave alone, too.
        hours: When the site works, such as `20:00-06:00`, in its own time.
        max_model_bytes: Largest model.
        min_corrupt: Smallest fraction of colluding clients that a random graph must withstand.
        max_sums: Sums on one model that this site joins.
        suites: Suites of secure aggregation that it joins.
    """

    secure_aggregation: Literal["required", "preferred", "off"] = "required"
    min_cohort: int = Field(default=3, ge=2)
    max_epsilon: float | None = Field(default=None, gt=0)
    delta: float = Field(default=DEFAULT_DELTA, gt=0, lt=1)
    tasks: list[str] = Field(default_factory=list)
    models: list[str] | None = None
    metrics: list[str] = Field(default_factory=lambda: ["loss", "accuracy", "train_loss"])
    per_client_metrics: bool = False
    hours: str | None = None
    max_model_bytes: int = Field(default=4 << 30, ge=1)
    min_corrupt: float = Field(default=CORRUPT, ge=0, lt=1)
    max_sums: int = Field(default=MAX_SUMS, ge=1)
    suites: list[Literal["full", "graph", "semi_honest"]] = Field(default=["full", "graph"])


@dataclass(frozen=True, slots=True)
class Policy:
    """A site's policy, ready to be asked.

    Attributes:
        file: What it says.
        hours: From when to when the site works; None for always.
    """

    file: PolicyFile
    hours: tuple[time, time] | None = None

    @property
    def suites(self) -> frozenset[Suite]:
        """Suites of secure aggregation that the site joins."""
        return frozenset(Suite(name) for name in self.file.suites)


def read_policy(path: Path) -> Policy:
    """Return the policy of a YAML file.

    Raises:
        ConfigError: It cannot be read, or says what cannot be. There is no policy then, and a
            client without its policy does nothing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read the site policy {path}: {reason}") from None
    body = load(text, where=str(path)) or {}
    if not isinstance(body, dict):
        raise ConfigError(f"{path}: expected keys and values", hint="such as `min_cohort: 3`")
    return policy_of(parse_section(PolicyFile, body, where=str(path)))


def policy_of(file: PolicyFile) -> Policy:
    """Return the policy that a file describes.

    Raises:
        ConfigError: `hours` are no hours.
    """
    if file.hours is None:
        return Policy(file)
    found = _HOURS.fullmatch(file.hours)
    if found is None:
        raise ConfigError(f"hours {file.hours!r}: expected HH:MM-HH:MM", hint='"20:00-06:00"')
    a, b, c, d = (int(part) for part in found.groups())
    if (a, b) == (c, d):
        raise ConfigError(
            f"hours {file.hours!r} begin and end at once", hint="leave `hours` out for always"
        )
    return Policy(file, (time(a, b), time(c, d)))


OPEN: Final = Policy(
    PolicyFile(
        secure_aggregation="preferred",
        tasks=[ANY],
        metrics=[ANY],
        per_client_metrics=True,
        min_cohort=2,
        min_corrupt=0.0,
        max_sums=64,
        suites=["full", "graph", "semi_honest"],
    )
)
"""For a client without certificates and without a policy file, which is a trial on one machine."""


def is_open(policy: Policy, now: time) -> bool:
    """Return whether the site works at this time of its day.

    >>> night = policy_of(PolicyFile(hours="20:00-06:00"))
    >>> [is_open(night, time(h)) for h in (19, 20, 23, 5, 6)]
    [False, True, True, True, False]
    """
    if policy.hours is None:
        return True
    start, end = policy.hours
    return start <= now < end if start < end else now >= start or now < end


def seconds_to_open(policy: Policy, now: time) -> float:
    """Return how long the site is closed from now on, 0 where it is open.

    >>> night = policy_of(PolicyFile(hours="20:00-06:00"))
    >>> seconds_to_open(night, time(19, 59, 30)), seconds_to_open(night, time(23))
    (30.0, 0.0)
    """
    if policy.hours is None or is_open(policy, now):
        return 0.0
    return (_seconds(policy.hours[0]) - _seconds(now)) % _DAY_S or 1.0


def _seconds(at: time) -> float:
    return at.hour * 3600 + at.minute * 60 + at.second + at.microsecond / 1e6


def refusal(policy: Policy, plan: Plan, *, model_bytes: int, now: time) -> Refused | None:
    """Return why the site does not do what a plan asks, None where it does.

    Args:
        policy: The site's.
        plan: The round's terms.
        model_bytes: Size of its model.
        now: Time of the day at the site.
    """
    for check, hint in _CHECKS:
        why = check(policy, plan, model_bytes, now)
        if why:
            return Refused(f"the site's policy: {why}", hint=hint)
    return None


def _hours(policy: Policy, plan: Plan, size: int, now: time) -> str:
    return "" if is_open(policy, now) else f"the site works {policy.file.hours}"


def _task(policy: Policy, plan: Plan, size: int, now: time) -> str:
    tasks = policy.file.tasks
    if plan.task in tasks or ANY in tasks:
        return ""
    return f"the task `{plan.task}` is not among its `tasks`"


def _model(policy: Policy, plan: Plan, size: int, now: time) -> str:
    models = policy.file.models
    if models is not None and plan.spec_digest not in models:
        return f"the model schema {plan.spec_digest[:12]}… is not among its `models`"
    if size > policy.file.max_model_bytes:
        return f"a model of {size} bytes, `max_model_bytes` is {policy.file.max_model_bytes}"
    return ""


def _aggregation(policy: Policy, plan: Plan, size: int, now: time) -> str:
    file, terms = policy.file, plan.aggregation
    if not isinstance(terms, Secure):
        if file.secure_aggregation == "required":
            return "secure aggregation is required, the plan is plain"
        return _small(file.min_cohort, plan.goal, "the round's goal")
    if file.secure_aggregation == "off":
        return "secure aggregation is off"
    if terms.suite is not None and terms.suite not in file.suites:
        return f"the suite `{terms.suite}` is not among its `suites`"
    cohort = plan.goal
    try:
        smallest = min(sizes_of(terms, max(cohort, terms.groups)))
        floor = min_cohort_of(terms, smallest)
    except PlanError as error:
        return error.message
    return _small(file.min_cohort, floor, "the floor of its sums")


def _small(floor: int, found: int, what: str) -> str:
    return f"{what} is {found} clients, `min_cohort` is {floor}" if found < floor else ""


def _metrics(policy: Policy, plan: Plan, size: int, now: time) -> str:
    """Metrics of a secure sum are declared; those of a plain one are left out by the agent."""
    if not isinstance(plan.encoding, RingGrid) or ANY in policy.file.metrics:
        return ""
    asked = {name for name, _ in plan.encoding.metrics} - {NORM}
    odd = sorted(asked - set(policy.file.metrics))
    return f"the metric `{odd[0]}` is not among its `metrics`" if odd else ""


def _privacy(policy: Policy, plan: Plan, size: int, now: time) -> str:
    most, terms = policy.file.max_epsilon, plan.privacy
    if most is None or plan.local.record is not None:
        return ""  # what a record may lose is for the site's ledger, which knows how many there are
    if terms is None:
        return f"`max_epsilon` is {most:g}, and the plan has no differential privacy"
    if terms.epsilon > most:
        return f"`max_epsilon` is {most:g}, and the run's epsilon is {terms.epsilon:.4g}"
    return ""


_CHECKS: Final[tuple[tuple[Callable[[Policy, Plan, int, time], str], str], ...]] = (
    (_hours, "it asks for no work outside of its `hours`"),
    (_task, "the data owner allows a task by its name in `tasks`, and all by `*`"),
    (_model, "the data owner names what may be trained in `models` and `max_model_bytes`"),
    (_aggregation, "only the data owner lowers `secure_aggregation` and `min_cohort`, by name"),
    (_metrics, "the data owner names what may leave in `metrics`"),
    (_privacy, "only the data owner raises `max_epsilon`, or leaves it out to ask for no privacy"),
)
"""What is looked at, in this order, and what to do about it."""


def allowed_metrics(policy: Policy, found: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics that may leave the site."""
    if ANY in policy.file.metrics:
        return found
    return {name: value for name, value in found.items() if name in policy.file.metrics}
