"""What else goes wrong around real processes: each run ends with a commit, or says why not."""

import pytest

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(240)]


@pytest.mark.nightly
def test_a_secure_round_that_cannot_be_tried_again_ends_with_a_reason(site):
    """Two clients are lost while masks are taken off; the others may help no second attempt."""
    site.write(
        rounds=2,
        aggregation="secure",
        round={"quorum": 3, "deadline_s": 20, "backoff_s": 0.1, "step_s": 2, "retries": 2},
    )
    site.coordinator()
    site.clients("ab")
    for name in "cd":
        site.client(name, CHORAL_FAILPOINT="client.secure.heard:5")  # asked to take masks off
    site.until(lambda: all(site.running[name].code is not None for name in "cd"))
    site.clients("cd")
    assert site.ended() == 1
    assert site.said("failed: round_spent") == 1
