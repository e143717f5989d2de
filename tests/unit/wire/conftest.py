"""A plan that may travel: its digests are digests."""

from dataclasses import replace

import pytest

from choral.core.aggregation import RingGrid, Secure
from choral.core.exact import Encoding
from choral.core.plan import Local


@pytest.fixture
def plain_plan(make_plan):
    """Return a plan of a plain round with no field at its default."""
    plan = make_plan(epochs=2, batch_size=None, lr=0.05, shuffle=False)
    return replace(
        plan,
        run_id="heart-1",
        round=3,
        attempt=2,
        task="heart_task:task",
        model_sha256="a1" * 32,
        spec_digest="b2" * 32,
        mu=0.25,
        weighting="uniform",
        encoding=Encoding(16.0, 512.0, 4096.0),
        goal=4,
        quorum=3,
        deadline_s=600.0,
    )


@pytest.fixture
def secure_plan(plain_plan):
    """Return a plan of a secure round."""
    return replace(
        plain_plan,
        local=Local(steps=7),
        aggregation=Secure("full", 3, 0.1, 0.2, 24, 2, {"name": "trimmed_mean", "trim": 0.2}),
        encoding=RingGrid(4.0, 1000.0, 18, 24, (("loss", 8.0), ("accuracy", 1.0))),
    )
