"""A site's ledger of its records."""

from dataclasses import replace

import pytest

from choral.client.policy import PolicyFile, policy_of, refusal
from choral.client.records import Allowance, RecordLedger, open_record_ledger
from choral.core.errors import BudgetExhausted, PlanError, Refused
from choral.core.plan import Local, RecordPrivacy
from choral.stores.memory import MemoryLogStore
from choral.system import SystemRand


@pytest.fixture
def plan(make_plan):
    local = Local(steps=10, batch_size=4, record=RecordPrivacy(1.0, 2.0))
    return replace(make_plan(), local=local)


def ledger(store, epsilon=None, delta=1e-3):
    return RecordLedger(store, Allowance(epsilon, delta), SystemRand())


def reserve(found, plan):
    return found.reserve(plan, records=100, dimension=5)


def test_epsilon_grows_over_rounds_and_runs(plan):
    found = ledger(MemoryLogStore())
    seen = [reserve(found, replace(plan, round=r)).epsilon.value for r in (1, 2)]
    seen.append(reserve(found, replace(plan, run_id="another")).epsilon.value)
    assert 0 < seen[0] < seen[1] < seen[2]
    assert found.epsilon().unit == "record"


def test_the_same_round_trained_again_counts_again(plan):
    """Its noise is new, so both updates are releases."""
    found = ledger(MemoryLogStore())
    one, again = reserve(found, plan), reserve(found, plan)
    assert again.epsilon.value > one.epsilon.value


def test_a_plan_that_cannot_be_afforded_is_refused_and_costs_nothing(plan):
    store = MemoryLogStore()
    first = reserve(ledger(store), plan)
    strict = ledger(store, epsilon=first.epsilon.value * 1.01)
    with pytest.raises(BudgetExhausted, match="may lose epsilon"):
        reserve(strict, replace(plan, round=2))
    assert strict.epsilon().value == pytest.approx(first.epsilon.value)
    gentle = replace(plan.local, record=RecordPrivacy(1.0, 500.0))
    reserve(strict, replace(plan, run_id="gentle", local=gentle))


def test_the_owner_may_raise_the_limit_and_not_move_delta(plan):
    store = MemoryLogStore()
    with pytest.raises(BudgetExhausted):
        reserve(ledger(store, epsilon=0.01), plan)
    reserve(ledger(store, epsilon=9.0), plan)
    with pytest.raises(Refused, match="opened with"):
        ledger(store, delta=1e-4)


def test_no_noise_is_no_privacy(plan):
    local = replace(plan.local, record=RecordPrivacy(1.0, 0.0))
    with pytest.raises(PlanError, match="protects nobody"):
        reserve(ledger(MemoryLogStore()), replace(plan, local=local))


def test_a_plan_is_held_to_the_trainings_that_its_noise_is_made_for(plan):
    """Whatever the policy allows, and whatever became of the trainings before."""
    terms = RecordPrivacy(1.0, epsilon=2.0, delta=1e-3, rounds=2)
    plan = replace(plan, local=Local(batch_size=None, record=terms))
    store = MemoryLogStore()
    for round_, attempt in ((1, 1), (1, 2)):
        reserve(ledger(store), replace(plan, round=round_, attempt=attempt))
    before = ledger(store).epsilon().value
    with pytest.raises(BudgetExhausted, match="made for no more"):
        reserve(ledger(store), replace(plan, round=2))
    assert ledger(store).epsilon().value == before
    reserve(ledger(store), replace(plan, run_id="another"))


def test_it_is_remembered_on_disk(plan, tmp_path):
    allowance = Allowance(5.0)
    one = reserve(open_record_ledger(tmp_path, allowance, SystemRand()), plan)
    found = open_record_ledger(tmp_path, allowance, SystemRand())
    assert found.epsilon().value == pytest.approx(one.epsilon.value)
    assert (tmp_path / "records.db").stat().st_mode & 0o077 == 0


def test_the_policy_leaves_records_to_the_ledger(plan):
    policy = policy_of(PolicyFile(tasks=["*"], max_epsilon=1.0, secure_aggregation="off"))
    plan = replace(plan, goal=5)

    def why(asked):
        return refusal(policy, asked, model_bytes=1, now=None)

    assert why(plan) is None
    assert "no differential privacy" in why(replace(plan, local=Local())).message


def test_an_agent_reserves_before_it_trains_and_refuses_what_it_cannot_afford(federation, meet):
    local = Local(steps=4, batch_size=4, record=RecordPrivacy(1.0, 2.0))
    plans = [replace(federation.plan, local=local, round=r) for r in (1, 2)]
    one = ledger(MemoryLogStore()).reserve(plans[0], records=16, dimension=4).epsilon.value
    policy = policy_of(
        PolicyFile(
            secure_aggregation="off",
            min_cohort=2,
            tasks=["*"],
            max_epsilon=1.05 * one,
            delta=1e-3,
        )
    )
    tokens = [federation.script.assign("a", plan) for plan in plans]
    meet(federation, "a", policy=policy)
    assert b"train_loss" not in federation.script.uploads[tokens[0]]
    assert tokens[1] not in federation.script.uploads
    (refused,) = federation.script.failures.values()
    assert "budget" in str(refused)
    state = federation.folder / "state-a"
    found = open_record_ledger(state, Allowance(delta=1e-3), SystemRand())
    assert found.epsilon().value == pytest.approx(one)
