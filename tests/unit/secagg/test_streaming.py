"""A large vector goes through in chunks: memory stays near the vector's own size.

`streaming.py` measures, in a fresh process, so that nothing else is in the peak.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "streaming.py"
LIMIT = 1.3
"""Of the vector's own size, the vector included."""


def measured(role, size, modulus=32):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), role, str(size), "--modulus", str(modulus)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    print(found)
    return found


@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("modulus", [24, 32])
def test_ten_million_parameters(role, modulus):
    found = measured(role, 10_000_000, modulus)
    assert 0.9 < found["ratio"] < LIMIT


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("role", ["client", "server"])
def test_a_hundred_million_parameters(role):
    found = measured(role, 100_000_000)
    assert found["vector_bytes"] == 400_000_000
    assert 0.9 < found["ratio"] < LIMIT
