"""Version N talks to N - 1, and a refusal names both sides."""

import pytest

from choral.core.errors import Malformed, VersionMismatch
from choral.wire.versions import OLDEST_VERSION, PROTOCOL_VERSION, agree, check_version


@pytest.mark.parametrize(
    ("client", "ours", "agreed"),
    [
        ((1, 1), (1, 1), 1),
        ((1, 2), (1, 1), 1),
        ((1, 1), (1, 2), 1),
        ((1, 2), (1, 2), 2),
        ((2, 3), (1, 2), 2),
        ((1, 2), (2, 3), 2),
        ((1, 9), (4, 5), 5),
        ((5, 5), (4, 5), 5),
    ],
)
def test_the_newest_that_both_speak(client, ours, agreed):
    assert agree(*client, ours=ours) == agreed


@pytest.mark.parametrize(
    ("client", "ours", "message", "hint"),
    [
        ((1, 1), (2, 3), "the client speaks version 1 of the protocol, the coordinator 2 to 3",
         "upgrade the client"),
        ((4, 5), (2, 3), "the client speaks version 4 to 5 of the protocol, the coordinator 2 to 3",
         "upgrade the coordinator"),
        ((2, 2), (1, 1), "the client speaks version 2 of the protocol, the coordinator 1",
         "upgrade the coordinator"),
    ],
)  # fmt: skip
def test_none_in_common_names_both(client, ours, message, hint):
    with pytest.raises(VersionMismatch) as caught:
        agree(*client, ours=ours)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize("client", [(0, 1), (2, 1), (0, 0), (-1, 5)])
def test_what_is_no_range_is_malformed(client):
    with pytest.raises(Malformed, match="expected a range from 1"):
        agree(*client)


def test_the_present_version_and_the_one_before_are_spoken():
    assert PROTOCOL_VERSION - OLDEST_VERSION in (0, 1)
    assert agree(OLDEST_VERSION, PROTOCOL_VERSION) == PROTOCOL_VERSION
    check_version(PROTOCOL_VERSION)
    check_version(1, ours=(1, 2))


@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION + 1])
def test_a_message_of_another_version_is_refused(version):
    with pytest.raises(VersionMismatch, match=f"version {version} of the protocol, expected 1"):
        check_version(version)
