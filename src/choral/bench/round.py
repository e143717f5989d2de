"""Rounds of a real deployment: a coordinator and clients as processes over mutual TLS on loopback.

Every client returns the model plus one, so that next to nothing is training.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, Final

import yaml

from choral.bench.machine import machine
from choral.core.errors import RunFailed
from choral.pki.trial import trial_federation

_TASK: Final = '''\
"""A model whose training adds one."""

import os

import numpy as np

from choral.core.update import Update

SIZE = int(os.environ["CHORAL_BENCH_MB"]) * (1 << 20) // 4


class PlusOne:
    """Returns what it was given, plus one."""

    def init(self, key):
        """Return a model of distinct values."""
        return {"w": np.linspace(-1, 1, SIZE, dtype=np.float32)}

    def train(self, params, data, plan, key):
        """Return a change of one everywhere."""
        return Update(np.ones(SIZE, np.float32), 1.0, {"train_loss": 0.0})

    def evaluate(self, params, data):
        """Return nothing of interest."""
        return {"loss": 0.0}


task = PlusOne()


def data(client):
    """Return one example."""
    return np.zeros((1, 1), np.float32), np.zeros(1, np.float32)
'''
_LIMIT_S: Final = 900.0

Watch = Callable[[str, int, int], None]


def bench_round(*, mb: int, clients: int, rounds: int, watch: Watch) -> dict[str, Any]:
    """Return seconds a round, plain and secure, and the coordinator's peak memory.

    Args:
        mb: Mebibytes of the model.
        clients: Clients, at least 3.
        rounds: Rounds that are measured, after one that is not.
        watch: Called with the stage, how far it is, and of how many.
    """
    rows = []
    for at, aggregation in enumerate(("plain", "secure")):
        watch(aggregation, at, 2)
        with tempfile.TemporaryDirectory(prefix="choral-bench-") as name:
            result, peak = _run(Path(name), mb, clients, rounds, aggregation)
        seconds = sorted(r["duration_s"] for r in result["rounds"][1:])
        rows.append(
            {
                "workload": f"{aggregation}, {clients} clients, {mb} MiB",
                "ours": median(seconds),
                "floor": None,
                "unit": "s/round",
                "ratio": None,
                "ours_min": seconds[0],
                "ours_max": seconds[-1],
                "repeat": len(seconds),
                "coordinator_peak_mib": peak / 1024,
            }
        )
    return {"name": "round", "machine": machine(), "rows": rows}


def _run(
    folder: Path, mb: int, clients: int, rounds: int, aggregation: str
) -> tuple[dict[str, Any], int]:
    """Return the result of a run, and the coordinator's peak memory in KiB."""
    names = [f"site-{i}" for i in range(clients)]
    trial_federation(folder, name="bench", clients=names)
    home = folder / "coordinator"
    body = {
        "name": "bench",
        "task": "plus_one:task",
        "rounds": rounds + 1,
        "clients_per_round": clients,
        "aggregation": aggregation,
        "evaluation": {"every": 0, "clients": False},
        "start": {"wait_s": 120},
        "tls": {"folder": "."},
        "seed": 1,
    }
    (home / "federation.yaml").write_text(yaml.safe_dump(body))
    (home / "plus_one.py").write_text(_TASK)
    for name in names:
        _site(folder / name, name)
    environment = {
        **os.environ,
        "CHORAL_BENCH_MB": str(mb),
        "CHORAL_STORAGE_PATH": str(folder / "runs"),
    }
    words = ["coordinator", "--config", "federation.yaml", "--listen", "127.0.0.1:0", "--json"]
    started: list[subprocess.Popen[str]] = []
    try:
        coordinator = _start(words, home, environment, subprocess.PIPE)
        started.append(coordinator)
        address = _address(coordinator)
        for name in names:
            words = ["client", "--config", "client.yaml", "--coordinator", address, "--until-done"]
            started.append(_start(words, folder / name, environment, subprocess.DEVNULL))
        peak = _watch_memory(coordinator)
        printed = coordinator.communicate(timeout=_LIMIT_S)[0]
        if coordinator.returncode:
            raise RunFailed("the measured run failed", hint="run it by hand to see why")
        for process in started[1:]:
            process.wait(30)
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
    result: dict[str, Any] = json.loads(printed)
    return result, max(peak)


def _site(home: Path, name: str) -> None:
    client = {
        "id": name,
        "data": "plus_one:data",
        "tls": {"folder": "."},
        "state": "state",
        "policy": "policy.yaml",
    }
    policy = {"secure_aggregation": "preferred", "tasks": ["plus_one:task"]}
    (home / "client.yaml").write_text(yaml.safe_dump(client))
    (home / "policy.yaml").write_text(yaml.safe_dump(policy))
    (home / "plus_one.py").write_text(_TASK)


def _start(
    words: list[str], folder: Path, environment: dict[str, str], errors: int
) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603  # our own program
        [sys.executable, "-m", "choral", *words],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if errors == subprocess.PIPE else subprocess.DEVNULL,
        stderr=errors,
        text=True,
    )


def _address(coordinator: subprocess.Popen[str]) -> str:
    for line in coordinator.stderr or ():
        with suppress(ValueError):
            address = json.loads(line).get("address")
            if address:
                return str(address)
    raise RunFailed("the coordinator did not start")


def _watch_memory(coordinator: subprocess.Popen[str]) -> list[int]:
    """Read the log to its end; after each line note the peak memory so far, in KiB."""
    peaks = [0]
    for _ in coordinator.stderr or ():
        with suppress(OSError, StopIteration, ValueError):
            status = Path(f"/proc/{coordinator.pid}/status").read_text().splitlines()
            peaks.append(next(int(s.split()[1]) for s in status if s.startswith("VmHWM")))
    return peaks
