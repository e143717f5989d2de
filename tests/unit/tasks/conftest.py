from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from choral.core.exact import Encoding
from choral.core.plan import Local, Objective, Plan


def build_plan(objective: Objective | None = None, **local: Any) -> Plan:
    return Plan(
        run_id="run",
        round=1,
        attempt=1,
        task="task",
        model_sha256="",
        spec_digest="",
        local=Local(**local),
        mu=0.0,
        weighting="examples",
        aggregation="plain",
        encoding=Encoding(),
        goal=1,
        quorum=1,
        deadline_s=1.0,
        objective=objective or Objective(),
    )


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    return build_plan


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small tensors: a second thread only costs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
