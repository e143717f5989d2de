"""The examples as a user runs them, and the published figures that they reproduce."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest

from choral.cli.simulate import simulate_file
from choral.config.build import Place
from choral.config.federation import read_file
from choral.simulation.launch import Launch

pytest.importorskip("torch")
pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).parents[2] / "examples"
FASHION = Path("/usr/share/datasets/fashion-mnist")
SEEDS = range(42, 47)

needs_fashion = pytest.mark.skipif(
    not FASHION.exists(), reason="Debian's dataset-fashion-mnist is not installed"
)


def simulate(example, *arguments, cwd):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "choral", "simulate"),
            EXAMPLES / example / "federation.yaml",
            "--json",
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def heart(tmp_path, *settings):
    """Return the JSON of the heart example for each seed, run in this process to save time."""
    path = EXAMPLES / "heart" / "federation.yaml"
    return [
        simulate_file(
            read_file(path, [f"seed={seed}", *settings]),
            Place(path.parent),
            Launch(out=tmp_path / str(seed)),
        ).to_json()
        for seed in SEEDS
    ]


def test_heart_reproduces_flamby_s_fedavg(tmp_path):
    """Ogier du Terrail et al. 2022, Fed-Heart-Disease, FedAvg: the mean of five seeds."""
    runs = heart(tmp_path)
    assert runs[0]["model_sha256"] == simulate("heart", cwd=tmp_path)["model_sha256"]
    assert mean(r["metrics"]["accuracy"] for r in runs) == pytest.approx(0.748, abs=0.01)
    published = {"cleveland": 0.731, "hungarian": 0.719, "switzerland": 0.650, "va": 0.640}
    assert set(runs[0]["client_metrics"]) == set(published)
    for hospital, accuracy in published.items():
        ours = mean(r["client_metrics"][hospital]["accuracy"] for r in runs)
        assert ours == pytest.approx(accuracy, abs=0.03), hospital
    assert all(len(r["rounds"]) == 15 for r in runs)


def test_heart_aggregated_securely_is_as_accurate(tmp_path):
    secure = heart(tmp_path / "secure", "aggregation=secure")
    for ours, plain in zip(secure, heart(tmp_path / "plain"), strict=True):
        assert ours["aggregation"]["threat_model"] == "active"
        assert ours["metrics"]["accuracy"] == pytest.approx(plain["metrics"]["accuracy"], abs=0.01)


@pytest.mark.parametrize("more", ["", ", beta2: 0.999, tau: 1e-8"], ids=["paper", "flamby"])
def test_heart_reproduces_flamby_s_fedadam(tmp_path, more):
    strategy = "strategy={name: fedadam, server_lr: 0.01" + more + "}"
    runs = heart(tmp_path, strategy, "local.lr=0.01")
    assert mean(r["metrics"]["accuracy"] for r in runs) == pytest.approx(0.779, abs=0.02)


def test_digits(tmp_path):
    result = simulate("digits", "--rounds", 4, cwd=tmp_path)
    assert len(result["client_metrics"]) == 10
    assert result["metrics"]["accuracy"] > 0.6


@needs_fashion
def test_fashion_mnist_small(tmp_path):
    result = simulate("fashion_mnist", "--rounds", 1, cwd=tmp_path)
    assert result["rounds"][0]["completed"] == 10
    assert result["metrics"]["accuracy"] > 0.3


@needs_fashion
@pytest.mark.nightly
def test_fashion_mnist_iid(tmp_path):
    result = simulate("fashion_mnist", cwd=tmp_path)
    assert result["metrics"]["accuracy"] >= 0.83


@needs_fashion
@pytest.mark.nightly
def test_fashion_mnist_two_shards(tmp_path):
    setting = ("--set", "simulation.data=fashion_data:two_shards")
    result = simulate("fashion_mnist", *setting, cwd=tmp_path)
    assert mean(r["metrics"]["accuracy"] for r in result["rounds"][-5:]) >= 0.69


@pytest.mark.nightly
@pytest.mark.parametrize(("delta", "published"), [("0.1", 0.703), ("1e-4", 0.685)])
def test_heart_with_record_privacy_is_near_flamby_s(delta, published):
    """The same, with DP-SGD at epsilon 1: the mean of five seeds; its noise is never the same."""
    pytest.importorskip("opacus")
    pytest.importorskip("dp_accounting")
    done = subprocess.run(
        [sys.executable, "record_privacy.py", "1", delta],
        cwd=EXAMPLES / "heart",
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(published, abs=0.03)
