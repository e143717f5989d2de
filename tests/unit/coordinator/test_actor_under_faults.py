"""A run's driver whose storage says no, or is taken over: what the fault simulation has found."""

import pytest

from choral.testing.faults import Fault, run_schedule, schedule_of

QUIET = schedule_of(0).having(())


@pytest.mark.parametrize("write", range(20))
def test_a_run_waits_for_a_storage_that_says_no_at_any_write(write):
    outcome = run_schedule(QUIET.having((Fault("disk", write, 3.0),)))

    assert outcome.holds, outcome.detail
    assert (outcome.status, outcome.processes) == ("completed", 1)


@pytest.mark.parametrize("tenth", range(15, 30))
def test_nobody_hears_what_a_driver_could_not_store_that_was_taken_over(tenth):
    faults = (Fault("takeover", tenth / 10, 5.0),)
    outcome = run_schedule(QUIET.having(faults))

    assert outcome.holds, outcome.detail
    assert outcome.status == "completed"
