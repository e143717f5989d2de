"""The run machine: rounds in order, retries, evaluation, restarts."""

from choral.federation.events import (
    Aggregated,
    ChooseCohort,
    ClientFailed,
    CohortChosen,
    Committed,
    Discard,
    Evaluate,
    Evaluated,
    Finish,
    Invite,
    ModelReleased,
    Restarted,
    RunStarted,
    SetTimer,
    StopRequested,
    TimerFired,
    UpdateReceived,
)
from choral.federation.policy import RoundPolicy, RunPolicy
from choral.federation.run import RunMachine, RunPhase

NAMES = ("a", "b")


def machine(rounds=2, every=1, **policy):
    return RunMachine(RunPolicy(rounds, RoundPolicy(**{"clients": 2, **policy}), every))


def play_round(run, number, attempt=1):
    """Take a run from a chosen cohort to the commit; return the last commands."""
    run.receive(CohortChosen(number, attempt, NAMES))
    for client in NAMES:
        run.receive(UpdateReceived(number, attempt, client))
    run.receive(Aggregated(number, attempt, 2, 0, 2.0, 0, 0, None))
    run.receive(ModelReleased(number, attempt, "none", None, None))
    return run.receive(Committed(number, attempt, f"s{number}", f"m{number}", {}, 0.1))


def fail_round(run, number, attempt):
    run.receive(CohortChosen(number, attempt, NAMES))
    commands = ()
    for client in NAMES:
        commands += run.receive(ClientFailed(number, attempt, client, "client_error", "boom"))
    return commands


def test_a_run_from_start_to_finish():
    run = machine()
    assert run.receive(RunStarted("s", "m")) == (ChooseCohort(1, 1),)
    assert play_round(run, 1) == (Evaluate(1, False),)
    assert run.receive(Evaluated(1, {}, {}, "none")) == (ChooseCohort(2, 1),)
    assert play_round(run, 2) == (Evaluate(2, True),)
    assert run.receive(Evaluated(2, {}, {}, "none")) == (Finish("completed"),)
    assert run.phase is RunPhase.COMPLETED


def test_evaluation_every_other_round_and_at_the_end():
    run = machine(rounds=3, every=2)
    run.receive(RunStarted("s", "m"))
    assert play_round(run, 1) == (ChooseCohort(2, 1),)
    assert play_round(run, 2) == (Evaluate(2, False),)
    run.receive(Evaluated(2, {}, {}, "none"))
    assert play_round(run, 3) == (Evaluate(3, True),)


def test_a_failed_round_is_retried_with_growing_pauses_and_then_the_run_pauses():
    run = machine(retries=2, backoff_s=3)
    run.receive(RunStarted("s", "m"))
    assert fail_round(run, 1, 1)[-1] == SetTimer(1, 1, "backoff", 3)
    assert run.receive(TimerFired(1, 1, "backoff")) == (ChooseCohort(1, 2),)
    assert fail_round(run, 1, 2)[-1] == SetTimer(1, 2, "backoff", 6)
    run.receive(TimerFired(1, 2, "backoff"))
    assert fail_round(run, 1, 3)[-1] == Finish("failed", "no_quorum")
    assert run.phase is RunPhase.PAUSED
    assert run.receive(Restarted()) == (ChooseCohort(1, 4),)


def test_a_committed_round_resets_the_tries():
    run = machine(retries=1)
    run.receive(RunStarted("s", "m"))
    fail_round(run, 1, 1)
    run.receive(TimerFired(1, 1, "backoff"))
    play_round(run, 1, attempt=2)
    run.receive(Evaluated(1, {}, {}, "none"))
    assert fail_round(run, 2, 1)[-1] == SetTimer(2, 1, "backoff", 1.0)


def test_history_counts_completed_rounds():
    run = machine()
    run.receive(RunStarted("s", "m"))
    play_round(run, 1)
    run.receive(Evaluated(1, {}, {}, "none"))
    play_round(run, 2)
    assert run.history.completed == {"a": 2, "b": 2}
    assert run.history.last_seen == {"a": 2, "b": 2}


def test_a_restart_gives_the_open_command_again():
    run = machine()
    run.receive(RunStarted("s", "m"))
    assert run.receive(Restarted()) == (ChooseCohort(1, 1),)
    run.receive(CohortChosen(1, 1, NAMES))
    assert run.receive(Restarted())[-1] == Invite(1, 1, NAMES)
    for client in NAMES:
        run.receive(UpdateReceived(1, 1, client))
    run.receive(Aggregated(1, 1, 2, 0, 2.0, 0, 0, None))
    run.receive(ModelReleased(1, 1, "none", None, None))
    run.receive(Committed(1, 1, "s", "m", {}, 0.1))
    assert run.receive(Restarted()) == (Evaluate(1, False),)


def test_a_restart_in_a_pause_goes_on_to_the_next_attempt():
    run = machine()
    run.receive(RunStarted("s", "m"))
    fail_round(run, 1, 1)
    assert run.receive(Restarted()) == (ChooseCohort(1, 2),)


def test_a_stop_ends_the_run_and_nothing_moves_it_any_more():
    run = machine()
    run.receive(RunStarted("s", "m"))
    run.receive(CohortChosen(1, 1, NAMES))
    assert run.receive(StopRequested("enough")) == (Finish("stopped", "enough"),)
    assert run.receive(UpdateReceived(1, 1, "a")) == (Discard(1, 1, "a", "late"),)
    assert run.receive(Restarted()) == (Finish("stopped", "enough"),)


def test_stale_answers_do_not_move_a_run():
    run = machine()
    run.receive(RunStarted("s", "m"))
    assert run.receive(CohortChosen(2, 1, NAMES)) == ()
    assert run.receive(TimerFired(1, 1, "backoff")) == ()
    assert run.receive(Evaluated(1, {}, {}, "none")) == ()
    assert run.phase is RunPhase.CHOOSING


def test_the_backoff_timer_of_another_round_moves_nothing():
    run = machine(rounds=3)
    run.receive(RunStarted("s", "m"))
    fail_round(run, 1, 1)
    assert run.receive(TimerFired(2, 1, "backoff")) == ()
    assert run.receive(TimerFired(1, 2, "backoff")) == ()
    assert run.phase is RunPhase.BACKOFF
