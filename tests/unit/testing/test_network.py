"""The network itself: losses by script, order and duplicates by seed, bytes on the wire."""

from collections import Counter

import pytest

from choral.core.errors import ConfigError
from choral.secagg import messages as msg
from choral.testing.secagg import Loss, Network, Schedule
from choral.testing.secagg.attack import thin_graph
from choral.testing.secagg.schedule import STEPS

FROM_SERVER = (
    msg.Invitation, msg.Roster, msg.Deliveries, msg.Survivors, msg.Consents, msg.Result,
)  # fmt: skip


@pytest.mark.parametrize("noticed", [False, True])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", range(5))
def test_a_client_lost_before_or_after_its_message(step, after, noticed):
    net = Network(4, losses=[Loss("c001", STEPS[step], after=after, noticed=noticed)]).run()
    net.assert_exact()
    gone = step + after < 3
    assert ("c001" not in net.summed.survivors) is gone
    assert "c001" not in net.counted
    heard = [type(msg.decode(raw)) for way, who, raw in net.log if (way, who) == ("<", "c001")]
    assert heard == list(STEPS[: step + after])


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", range(6))
def test_a_client_lost_before_or_after_what_it_should_hear(step, after):
    net = Network(4, losses=[Loss("c001", FROM_SERVER[step], after=after)]).run()
    net.assert_exact()
    told = [type(msg.decode(raw)) for way, who, raw in net.log if (way, who) == (">", "c001")]
    assert told == list(FROM_SERVER[: step + after])
    assert ("c001" in net.counted) is (step == 5 and after)


def test_two_losses_of_four_are_too_many():
    net = Network(4, losses=[Loss("c001", msg.Masked), Loss("c002", msg.Consent)]).run()
    assert net.summed is None
    assert net.abandoned.reason == "too_few_consents"


def test_a_schedule_repeats_itself_and_another_seed_differs():
    logs = [Network(4, schedule=Schedule(s, duplicates=0.3)).run().log for s in (1, 1, 2)]
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]
    straight = Network(4).run()
    assert Counter(way for way, *_ in logs[0]) != Counter(way for way, *_ in straight.log)


@pytest.mark.parametrize("semi_honest", [False, True])
def test_disorder_and_duplicates_change_nothing(semi_honest):
    for seed in range(10):
        schedule = Schedule(seed, duplicates=0.4)
        net = Network(5, semi_honest=semi_honest, schedule=schedule).run()
        net.assert_exact()
        assert net.summed.survivors == net.ids
        assert not net.rejected
        assert net.counted == set(net.ids)


def test_hurry_and_losses_end_in_an_exact_sum_or_none():
    ends = Counter()
    for seed in range(60):
        schedule = Schedule(seed, duplicates=0.2, losses=0.03, hurry=0.02)
        net = Network(5, schedule=schedule).run()
        ends[net.summed is not None] += 1
        if net.summed is None:
            assert net.abandoned is not None
            assert not net.counted
        else:
            net.assert_exact()
    assert min(ends.values()) > 5, ends


def test_every_message_has_one_encoding():
    net = Network(6, schedule=Schedule(3, duplicates=0.1)).run()
    for _, _, raw in net.log:
        assert msg.encode(msg.decode(raw)) == raw
    assert {type(msg.decode(raw)) for *_, raw in net.log} == {*STEPS, *FROM_SERVER}


def test_the_beacon_reaches_both_sides():
    parameters = thin_graph(beacon=True)
    net = Network(parameters.clients, parameters=parameters, beacon=b"public").run()
    net.assert_exact()
    assert net.told["c000"][msg.Roster].beacon == b"public"


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"duplicates": 1}, {"losses": -0.1}, {"hurry": 2}])
def test_a_schedule_that_is_none_is_refused(wrong):
    with pytest.raises(ConfigError):
        Schedule(**{"seed": 1, **wrong})
