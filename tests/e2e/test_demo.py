"""The demo: five real processes over mutual TLS, and nothing of them afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(240)]

HEART = Path(__file__).parents[2] / "examples" / "heart"
HOSPITALS = {"cleveland", "hungarian", "switzerland", "va"}


def start(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "choral", "demo", *arguments],
        cwd=cwd,
        env=os.environ | {"TMPDIR": str(cwd.parent)},  # other demos may run meanwhile
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a test runner in the background ignores Ctrl-C, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )


def left_behind(cwd):
    """Return folders of the demo, and processes that work in one."""
    folders = [str(path) for path in cwd.parent.glob("choral-demo-*")]
    working = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str((process / "cwd").resolve()).startswith(f"{cwd.parent}/choral-demo-"):
                working.append(process.name)
        except OSError:
            continue
    return folders, working


@pytest.fixture
def home(tmp_path):
    """A folder to work in; what the demo makes of its own lies beside it."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("aggregation", ["secure", "plain"])
def test_the_demo_gives_the_simulation_s_model(aggregation, home):
    pytest.importorskip("torch")
    settings = ["--rounds", "3", "--seed", "7"]
    demo = start(*settings, "--aggregation", aggregation, "--out", "kept", "--json", cwd=home)
    out, err = demo.communicate(timeout=200)
    assert demo.returncode == 0, err
    found = json.loads(out)
    simulated = subprocess.run(
        [sys.executable, "-m", "choral", "simulate", str(HEART / "federation.yaml"), *settings,
         "--set", f"aggregation={aggregation}", "--out", "simulated", "--json"],
        cwd=home, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found["model_sha256"] == json.loads(simulated.stdout)["model_sha256"]
    assert (found["engine"], found["identity"], found["status"]) == (
        "grpc",
        "verified",
        "completed",
    )
    assert set(found["client_metrics"]) == HOSPITALS
    assert [r["completed"] for r in found["rounds"]] == [4, 4, 4]
    assert found["aggregation"]["kind"] == aggregation
    kept = home / "kept" / "model.safetensors"
    assert kept.read_bytes() == (home / "simulated" / "model.safetensors").read_bytes()
    assert found["model_path"] == str(kept)
    assert json.loads((home / "kept" / "model.json").read_text())["run_id"] == found["run_id"]
    assert left_behind(home) == ([], [])
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("line", ["Four hospitals", "round 1/"])
def test_an_interrupted_demo_leaves_nothing(number, line, home):
    pytest.importorskip("torch")
    demo = start("--rounds", "200", cwd=home)
    deadline = time.monotonic() + 120
    while line not in demo.stderr.readline():
        assert time.monotonic() < deadline
    demo.send_signal(number)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert left_behind(home) == ([], [])
    assert list(home.iterdir()) == []


def test_a_folder_that_is_there_is_refused(home):
    (home / "kept").mkdir()
    demo = start("--out", "kept", cwd=home)
    _, err = demo.communicate(timeout=60)
    assert demo.returncode == 2
    assert "exists already" in err
