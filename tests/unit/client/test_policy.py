"""What a site refuses: one row each, and the strict defaults."""

from dataclasses import replace
from datetime import time

import pytest

from choral.client.policy import (
    OPEN,
    PolicyFile,
    allowed_metrics,
    is_open,
    policy_of,
    read_policy,
    refusal,
    seconds_to_open,
)
from choral.core.aggregation import RingGrid, Secure
from choral.core.errors import ConfigError, UnknownKey

NOON = time(12)
GRID = RingGrid(4.0, 64.0, 24, 32, (("loss", 8.0), ("update_norm", 16.0)))


@pytest.fixture
def plan(make_plan):
    """Return a secure plan of twenty clients that a site with `GOOD` allows."""
    plan = make_plan()
    return replace(
        plan,
        task="heart_task:task",
        spec_digest="ab" * 32,
        goal=20,
        quorum=11,
        aggregation=Secure(),
        encoding=GRID,
    )


@pytest.fixture
def plain(plan, make_plan):
    return replace(plan, aggregation=make_plan().aggregation, encoding=make_plan().encoding)


GOOD = PolicyFile(tasks=["heart_task:task"], metrics=["loss"])


def why(plan, *, now=NOON, model_bytes=100, **changes):
    policy = policy_of(GOOD.model_copy(update=changes))
    found = refusal(policy, plan, model_bytes=model_bytes, now=now)
    return "" if found is None else found.message


def test_what_the_policy_allows_is_not_refused(plan):
    assert why(plan) == ""


REFUSED = {
    "another task": ({"tasks": ["other:task"]}, {}, "`heart_task:task`"),
    "no task at all": ({"tasks": []}, {}, "`tasks`"),
    "another schema": ({"models": ["cd" * 32]}, {}, "`models`"),
    "no schema at all": ({"models": []}, {}, "`models`"),
    "a large model": ({"max_model_bytes": 99}, {}, "100 bytes, `max_model_bytes` is 99"),
    "out of hours": ({"hours": "20:00-06:00"}, {}, "20:00-06:00"),
    "a small floor": ({"min_cohort": 4}, {}, "3 clients, `min_cohort` is 4"),
    "two clients": ({}, {"aggregation": Secure(min_cohort=2)}, "2 clients, `min_cohort` is 3"),
    "a weaker suite": ({}, {"aggregation": Secure(suite="semi_honest")}, "`semi_honest`"),
    "secure aggregation is off": ({"secure_aggregation": "off"}, {}, "off"),
    "a metric": ({"metrics": ["accuracy"]}, {}, "`loss`"),
    "no mechanism": ({"max_epsilon": 4.0}, {}, "no differential privacy"),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_it_does_not_allow_is_refused_with_a_reason_and_a_hint(plan, case):
    changes, asked, words = REFUSED[case]
    policy = policy_of(GOOD.model_copy(update=changes))
    found = refusal(policy, replace(plan, **asked), model_bytes=100, now=NOON)
    assert words in found.message
    assert found.hint
    assert found.code == "refused"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "secure aggregation is required, the plan is plain"),
        ({"secure_aggregation": "preferred"}, ""),
        ({"secure_aggregation": "off"}, ""),
        ({"secure_aggregation": "off", "min_cohort": 21}, "`min_cohort` is 21"),
    ],
)
def test_plain_rounds_only_where_the_site_says_so(plain, changes, words):
    assert words in why(plain, **changes)
    assert bool(why(plain, **changes)) == bool(words)


def test_two_clients_only_by_name(plan):
    pair = replace(plan, aggregation=Secure(min_cohort=2))
    assert why(pair)
    assert why(pair, min_cohort=2) == ""


def test_groups_count_by_their_smallest(plan):
    groups = replace(plan, aggregation=Secure(groups=4, rule="median"))
    assert why(groups) == ""
    assert "`min_cohort` is 6" in why(groups, min_cohort=6)


def test_an_update_norm_is_no_metric_of_the_data(plan):
    assert why(plan, metrics=["loss"]) == ""


def test_nothing_said_is_nothing_allowed(plan):
    strict = policy_of(PolicyFile())
    assert strict.file.secure_aggregation == "required"
    assert strict.file.min_cohort == 3
    assert strict.file.tasks == []
    assert not strict.file.per_client_metrics
    assert refusal(strict, plan, model_bytes=1, now=NOON) is not None


def test_a_trial_on_one_machine_allows_what_is_asked(plan, plain):
    for asked in (plan, plain, replace(plan, aggregation=Secure(min_cohort=2))):
        assert refusal(OPEN, asked, model_bytes=100, now=NOON) is None


# --- hours ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "open_at", "closed_at"),
    [
        ("20:00-06:00", ["20:00", "23:59", "00:00", "05:59"], ["06:00", "12:00", "19:59"]),
        ("08:30-17:00", ["08:30", "12:00", "16:59"], ["08:29", "17:00", "23:00", "00:00"]),
        ("00:00-00:01", ["00:00"], ["00:01", "23:59"]),
    ],
)
def test_hours_go_across_midnight(hours, open_at, closed_at):
    policy = policy_of(PolicyFile(hours=hours))
    assert all(is_open(policy, time.fromisoformat(at)) for at in open_at)
    assert not any(is_open(policy, time.fromisoformat(at)) for at in closed_at)


@pytest.mark.parametrize(
    ("now", "seconds"), [("06:00", 14 * 3600), ("19:59", 60), ("20:00", 0), ("03:00", 0)]
)
def test_it_knows_when_they_begin(now, seconds):
    policy = policy_of(PolicyFile(hours="20:00-06:00"))
    assert seconds_to_open(policy, time.fromisoformat(now)) == seconds


def test_they_begin_after_midnight_too():
    policy = policy_of(PolicyFile(hours="01:00-02:00"))
    assert seconds_to_open(policy, time(23)) == 7200
    assert seconds_to_open(policy_of(PolicyFile()), time(23)) == 0


@pytest.mark.parametrize("hours", ["20-6", "24:00-06:00", "20:00-06:60", "20:00-20:00", "x", ""])
def test_what_are_no_hours(hours):
    with pytest.raises(ConfigError, match="hours"):
        policy_of(PolicyFile(hours=hours))


# --- metrics and files ----------------------------------------------------------------------------


def test_metrics_that_may_leave():
    found = {"loss": 1.0, "age": 50.0}
    assert allowed_metrics(policy_of(GOOD), found) == {"loss": 1.0}
    assert allowed_metrics(OPEN, found) == found


def test_a_file_is_read(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(
        "secure_aggregation: required\nmin_cohort: 3\nmax_epsilon: 4\n"
        "tasks: [heart_task:task]\nmetrics: [loss, accuracy]\n"
        'hours: "20:00-06:00"\nmax_model_bytes: 1_000_000_000\n'
    )
    policy = read_policy(path)
    assert policy.file.max_model_bytes == 1_000_000_000
    assert policy.file.max_epsilon == 4
    assert policy.hours == (time(20), time(6))


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("min_cohrt: 3", UnknownKey, "min_cohort"),
        ("min_cohort: 1", ConfigError, "min_cohort"),
        ("secure_aggregation: maybe", ConfigError, "secure_aggregation"),
        ("hours: 20:00-06:60", ConfigError, "hours"),
        ("- a list", ConfigError, "keys and values"),
        ("max_epsilon: 0", ConfigError, "max_epsilon"),
        ("tasks: heart_task:task", ConfigError, "tasks"),
    ],
)
def test_a_file_that_says_what_cannot_be_is_no_policy(tmp_path, text, kind, words):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(kind) as caught:
        read_policy(path)
    assert words in str(caught.value)


def test_a_file_that_is_not_there_is_no_policy(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the site policy"):
        read_policy(tmp_path / "policy.yaml")


def test_an_empty_file_is_the_strict_default(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("")
    assert read_policy(path).file == PolicyFile()
