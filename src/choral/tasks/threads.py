"""One thread per client in every engine, so that a result does not depend on where it was made."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the body with one thread in BLAS, OpenMP and, where it is loaded, PyTorch."""
    torch = sys.modules.get("torch")
    with threadpool_limits(limits=1), _loaded_later():
        if torch is None:
            yield
            return
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextmanager
def _loaded_later() -> Iterator[None]:
    """Tell libraries that are loaded inside the body, such as by a task, to take one thread."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
