"""Machines under arbitrary events: nothing raises, nobody counts twice, ends are ends."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from choral.federation import events as ev
from choral.federation.policy import RoundPolicy, RunPolicy
from choral.federation.round import ENDS, RoundMachine
from choral.federation.run import RunMachine, RunPhase

CLIENTS = tuple("abcdef")
who = st.sampled_from((*CLIENTS, "stranger"))
number = st.integers(1, 2)


def policies():
    return st.builds(
        RoundPolicy,
        clients=st.integers(4, 6),
        goal=st.none() | st.integers(2, 4),
        quorum=st.none() | st.integers(1, 2),
        over_selection=st.sampled_from([1.0, 1.5]),
        grace_s=st.sampled_from([0.0, 5.0]),
        retries=st.integers(0, 2),
    )


def round_events():
    return st.one_of(
        st.builds(ev.CohortChosen, number, number, st.permutations(CLIENTS).map(tuple)),
        st.builds(ev.UpdateReceived, number, number, who),
        st.builds(ev.UpdateReceived, st.just(1), st.just(1), who),
        st.builds(ev.ClientFailed, st.just(1), number, who, st.just("x"), st.just("y")),
        st.builds(ev.TimerFired, number, number, st.sampled_from(["deadline", "grace", "backoff"])),
        st.builds(ev.ModelReleased, number, number, st.just("none"), st.none(), st.none()),
        st.builds(
            ev.Committed,
            number,
            number,
            st.just("s"),
            st.just("m"),
            st.just({}),
            st.just(0.0),
            st.none(),
        ),
        st.builds(ev.Restarted, st.lists(who, max_size=4).map(tuple)),
    )


class Sum:
    """What a driver's sum would hold: it starts anew with every attempt and after a restart."""

    def __init__(self):
        self.count = Counter()

    def do(self, command):
        if isinstance(command, ev.Accumulate):
            self.count[command.client] += 1

    def restart(self, kept):
        self.count = Counter({c: n for c, n in self.count.items() if c in kept})


@settings(max_examples=max(300, settings().max_examples))
@given(policies(), st.lists(round_events(), max_size=60))
def test_a_round_adds_each_invited_client_once(policy, events):
    machine = RoundMachine(1, 1, policy=policy)
    held = Sum()
    ended = None
    for event in [ev.CohortChosen(1, 1, CLIENTS), *events]:
        if isinstance(event, ev.Restarted):
            held.restart(event.held)
        commands = machine.receive(event)
        for command in commands:
            held.do(command)
            if isinstance(command, ev.CloseSum):
                assert set(command.survivors) == set(held.count)
                assert len(command.survivors) >= machine.cohort.quorum
                commands += machine.receive(
                    ev.Aggregated(1, 1, len(command.survivors), 0, 1.0, 0, 0, None)
                )
        assert all(n == 1 for n in held.count.values())
        assert "stranger" not in held.count
        if ended is not None:
            assert machine.phase is ended
        if machine.phase in ENDS:
            ended = machine.phase


@settings(max_examples=max(300, settings().max_examples))
@given(
    policies(),
    st.lists(
        round_events()
        | st.builds(ev.RunStarted, st.just("s"), st.just("m"))
        | st.builds(ev.Evaluated, number, st.just({}), st.just({}), st.just("none"))
        | st.builds(ev.StopRequested, st.just("enough")),
        max_size=60,
    ),
)
def test_a_run_takes_any_event_and_replays_to_the_same_commands(policy, events):
    runs = [RunMachine(RunPolicy(2, policy)) for _ in range(2)]
    for event in events:
        first, second = (run.receive(event) for run in runs)
        assert first == second
        assert runs[0].phase is runs[1].phase
        if runs[0].phase in (RunPhase.COMPLETED, RunPhase.STOPPED):
            assert not any(isinstance(c, ev.Invite | ev.ChooseCohort) for c in first)
