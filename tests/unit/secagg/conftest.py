"""The network of `choral.testing`, under the name that these tests use."""

import pytest

from choral.testing.secagg.network import Network


@pytest.fixture
def world():
    """Return the class; each test builds its own."""
    return Network
