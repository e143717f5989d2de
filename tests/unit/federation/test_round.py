"""The round machine, step by step."""

import pytest

from choral.core.errors import RunFailed
from choral.federation.events import (
    Abandon,
    Accumulate,
    Aggregated,
    ClientFailed,
    CloseSum,
    CohortChosen,
    Commit,
    Committed,
    Discard,
    Invite,
    ModelReleased,
    Release,
    Restarted,
    SetTimer,
    TimerFired,
    UpdateReceived,
)
from choral.federation.policy import RoundPolicy
from choral.federation.round import ENDS, ROUND_TABLE, Phase, RoundMachine


def opened(names="abcd", **policy):
    machine = RoundMachine(1, 1, policy=RoundPolicy(**{"clients": len(names), **policy}))
    return machine, machine.receive(CohortChosen(1, 1, tuple(names)))


def update(client, attempt=1, round=1):
    return UpdateReceived(round, attempt, client)


def failure(client):
    return ClientFailed(1, 1, client, "client_error", "boom")


def aggregated(count):
    return Aggregated(1, 1, count, 0, 1.0, 0, 0, None)


def test_a_round_from_invitation_to_commit():
    machine, commands = opened("abc", deadline_s=9)
    assert commands == (SetTimer(1, 1, "deadline", 9), Invite(1, 1, ("a", "b", "c")))
    assert machine.receive(update("b")) == (Accumulate(1, 1, "b"),)
    assert machine.receive(update("a")) == (Accumulate(1, 1, "a"),)
    assert machine.receive(update("c")) == (
        Accumulate(1, 1, "c"),
        CloseSum(1, 1, ("b", "a", "c")),
    )
    assert machine.receive(aggregated(3)) == (Release(1, 1),)
    assert machine.receive(ModelReleased(1, 1, "none", None, None)) == (Commit(1, 1),)
    assert machine.receive(Committed(1, 1, "s", "m", {}, 0.1)) == ()
    assert machine.phase is Phase.COMMITTED


def test_a_second_contribution_is_discarded():
    machine, _ = opened()
    machine.receive(update("a"))
    assert machine.receive(update("a")) == (Discard(1, 1, "a", "duplicate"),)


def test_an_uninvited_contribution_is_discarded():
    machine, _ = opened("ab")
    assert machine.receive(update("z")) == (Discard(1, 1, "z", "uninvited"),)


def test_a_contribution_of_another_attempt_is_stale():
    machine, _ = opened()
    assert machine.receive(update("a", attempt=2)) == (Discard(1, 2, "a", "stale"),)
    assert machine.receive(TimerFired(1, 2, "deadline")) == ()


def test_the_goal_closes_the_round_and_later_ones_are_late():
    machine, _ = opened("abcd", clients=2)
    machine.receive(update("a"))
    assert machine.receive(update("d"))[-1] == CloseSum(1, 1, ("a", "d"))
    assert machine.receive(update("b")) == (Discard(1, 1, "b", "late"),)
    assert machine.receive(update("a")) == (Discard(1, 1, "a", "duplicate"),)


def test_when_everyone_has_answered_the_quorum_is_enough():
    machine, _ = opened("abcd")
    for client in "abc":
        machine.receive(update(client))
    assert machine.receive(failure("d")) == (CloseSum(1, 1, ("a", "b", "c")),)


def test_a_round_that_cannot_reach_its_quorum_is_given_up_at_once():
    machine, _ = opened("abcd")
    assert machine.receive(failure("a")) == ()
    assert machine.receive(failure("b")) == (Abandon(1, 1, "no_quorum"),)
    assert machine.phase is Phase.ABORTED


def test_a_round_is_spent_where_too_few_are_left_that_may_join_another_sum():
    machine, _ = opened("abcde", quorum=3)
    for client, code in (("a", "round_spent"), ("b", "client_error")):
        assert machine.receive(ClientFailed(1, 1, client, code, "")) == ()
    assert machine.receive(failure("c")) == (Abandon(1, 1, "no_quorum"),)

    machine, _ = opened("abcd", quorum=3)
    machine.receive(ClientFailed(1, 1, "a", "round_spent", ""))
    commands = machine.receive(ClientFailed(1, 1, "b", "round_spent", ""))
    assert commands == (Abandon(1, 1, "round_spent"),)


def test_a_failed_client_may_still_contribute():
    machine, _ = opened("abc", quorum=2)
    machine.receive(failure("a"))
    assert machine.receive(update("a")) == (Accumulate(1, 1, "a"),)
    assert machine.failed == {}


def test_a_failure_after_a_contribution_changes_nothing():
    machine, _ = opened("abc")
    machine.receive(update("a"))
    assert machine.receive(failure("a")) == ()
    assert list(machine.accepted) == ["a"]


def test_the_deadline_takes_what_is_there():
    machine, _ = opened("abcd", quorum=2)
    machine.receive(update("a"))
    machine.receive(update("b"))
    assert machine.receive(TimerFired(1, 1, "deadline")) == (CloseSum(1, 1, ("a", "b")),)


def test_the_deadline_below_the_quorum_aborts():
    machine, _ = opened("abcd")
    machine.receive(update("a"))
    assert machine.receive(TimerFired(1, 1, "deadline")) == (Abandon(1, 1, "no_quorum"),)


def test_grace_waits_for_the_quorum_and_no_longer():
    machine, _ = opened("abcd", quorum=2, grace_s=5)
    machine.receive(update("a"))
    assert machine.receive(TimerFired(1, 1, "deadline")) == (SetTimer(1, 1, "grace", 5),)
    assert machine.receive(TimerFired(1, 1, "deadline")) == ()
    assert machine.receive(update("b"))[-1] == CloseSum(1, 1, ("a", "b"))


def test_grace_ends():
    machine, _ = opened("abcd", grace_s=5)
    machine.receive(TimerFired(1, 1, "deadline"))
    assert machine.receive(TimerFired(1, 1, "grace")) == (Abandon(1, 1, "no_quorum"),)


def test_an_empty_cohort_aborts():
    _, commands = opened("", clients=3)
    assert commands == (Abandon(1, 1, "empty_cohort"),)


def test_a_cohort_below_a_fixed_quorum_aborts():
    _, commands = opened("ab", clients=4, quorum=3)
    assert commands[0] == Abandon(1, 1, "no_quorum")


def test_a_client_chosen_twice_is_a_defect():
    with pytest.raises(RunFailed, match="twice"):
        opened("aa")


def test_a_sum_of_another_size_is_a_defect():
    machine, _ = opened("ab")
    machine.receive(update("a"))
    machine.receive(update("b"))
    with pytest.raises(RunFailed, match="3 contributions in a sum of 2"):
        machine.receive(aggregated(3))


def test_a_restart_asks_again_for_what_was_lost():
    machine, _ = opened("abcd")
    machine.receive(update("a"))
    machine.receive(update("b"))
    machine.receive(failure("c"))
    commands = machine.receive(Restarted(held=("b",)))
    assert commands[-1] == Invite(1, 1, ("a", "d"))
    assert list(machine.accepted) == ["b"]


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_restart_after_sealing_keeps_the_survivors(steps):
    machine, _ = opened("abcd", clients=2)
    machine.receive(update("d"))
    machine.receive(update("b"))
    for event in (aggregated(2), ModelReleased(1, 1, "none", None, None))[:steps]:
        machine.receive(event)
    assert machine.receive(Restarted(held=("d",)))[-1] == Invite(1, 1, ("b",))
    assert machine.receive(update("a")) == (Discard(1, 1, "a", "uninvited"),)
    assert machine.receive(update("b"))[-1] == CloseSum(1, 1, ("d", "b"))


def test_a_restart_does_not_change_what_the_plan_is_made_from():
    machine, _ = opened("abcd", goal=2)
    before = machine.cohort
    machine.receive(update("d"))
    machine.receive(update("b"))
    machine.receive(Restarted(held=("d",)))
    assert machine.cohort == before


def test_a_restart_with_every_contribution_sums_again():
    machine, _ = opened("ab")
    machine.receive(update("a"))
    machine.receive(update("b"))
    machine.receive(aggregated(2))
    assert machine.receive(Restarted(held=("a", "b"))) == (CloseSum(1, 1, ("a", "b")),)


def test_a_restart_after_sealing_forgets_who_failed():
    machine, _ = opened("abc", quorum=2)
    machine.receive(failure("c"))
    machine.receive(update("a"))
    machine.receive(update("b"))
    assert machine.receive(Restarted())[-1] == Invite(1, 1, ("a", "b"))
    assert machine.receive(update("a")) == (Accumulate(1, 1, "a"),)
    assert machine.receive(update("b"))[-1] == CloseSum(1, 1, ("a", "b"))


def test_a_contribution_kept_twice_is_one():
    machine, _ = opened("abcd", goal=2)
    machine.receive(update("a"))
    machine.receive(update("b"))
    assert machine.receive(Restarted(held=("a", "a")))[-1] == Invite(1, 1, ("b",))


def test_ends_are_absorbing():
    for phase, event in ROUND_TABLE:
        if phase in ENDS:
            assert event is UpdateReceived


def test_every_phase_but_the_ends_survives_a_restart():
    restartable = {phase for phase, event in ROUND_TABLE if event is Restarted}
    assert restartable == set(Phase) - ENDS - {Phase.PLANNED}
