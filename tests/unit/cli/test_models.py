"""`choral models`: what runs have made, exported so that others compute the same."""

import io
import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from choral.cli.app import app
from choral.core.errors import ChoralError, ConfigError, CorruptBlob, UnknownName
from choral.core.tensors import decode_tensors

RUN = CliRunner()
NETS = {
    "linear": "{type: logistic, input_dim: 2}",
    "mlp": "{type: mlp, input_dim: 2, classes: 2, hidden: [4]}",
}
OWN = """
import functools

import torch
from choral.tasks.torch import TorchTask

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(2)
        self.out = torch.nn.Linear(2, 2)
    def forward(self, x):
        # TorchScript's compiler refuses functools: this module must be traced.
        return functools.reduce(lambda a, f: f(a), (self.norm, self.out), x)

task = TorchTask(Net, torch.nn.functional.cross_entropy)
"""


def call(*words):
    done = RUN.invoke(app, [str(word) for word in words])
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder of runs: two of a linear model, one of an mlp, one of a task of its own."""
    home = tmp_path_factory.mktemp("models")
    (home / "data").mkdir()
    for i, name in enumerate("abc"):
        rows = [f"{(j * 7 + i) % 5},{(j * 3 + i) % 4},{(j + i) % 2}" for j in range(20)]
        (home / "data" / f"{name}.csv").write_text("x1,x2,y\n" + "\n".join(rows) + "\n")
    (home / "own_net.py").write_text(OWN)
    kinds = {**{n: f"model: {text}" for n, text in NETS.items()}, "own": "task: own_net:task"}
    for name, what in kinds.items():
        (home / f"{name}.yaml").write_text(
            f"name: {name}\n{what}\nrounds: 1\nlocal: {{batch_size: 16}}\n"
            "simulation: {data: data/}\nseed: 5\n"
        )
        for seed in (5, 6) if name == "linear" else (5,):
            out = home / "runs" / f"{name}-{seed}"
            call("simulate", home / f"{name}.yaml", "--seed", seed, "--out", out, "--json")
    yield home / "runs"
    sys.path.remove(str(home))
    sys.modules.pop("own_net", None)


def at(runs):
    return ("--path", runs)


def expected(runs, name, x):
    """Return what a run's model gives for x, computed without the export."""
    arrays = decode_tensors((runs / f"{name}-5" / "model.safetensors").read_bytes())
    if name == "linear":
        return x @ arrays["weight"].T + arrays["bias"]
    if name == "own":
        mean, var = arrays["norm.running_mean"], arrays["norm.running_var"]
        x = (x - mean) / np.sqrt(var + 1e-5) * arrays["norm.weight"] + arrays["norm.bias"]
        return x @ arrays["out.weight"].T + arrays["out.bias"]
    hidden = np.maximum(x @ arrays["1.weight"].T + arrays["1.bias"], 0)
    return hidden @ arrays["3.weight"].T + arrays["3.bias"]


@pytest.mark.parametrize("name", ["linear", "mlp", "own"])
def test_onnx_computes_the_same_for_any_number_of_examples(runs, tmp_path, rng, name):
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    out = tmp_path / "m.onnx"
    words = ("--format", "onnx", "-o", out, "--task-folder", runs.parent)
    shape = ("--input-shape", "2") if name == "own" else ()
    made = json.loads(call("models", "export", f"{name}-5", *at(runs), *words, *shape, "--json"))
    assert made["bytes"] == out.stat().st_size
    model = onnx.load(out)
    onnx.checker.check_model(model)
    origin = json.loads(model.metadata_props[0].value)
    assert origin["model_sha256"] == made["model_sha256"]
    for count in (1, 5):
        x = rng.normal(size=(count, 2)).astype(np.float32)
        (found,) = ReferenceEvaluator(model).run(None, {"x": x})
        np.testing.assert_allclose(found, expected(runs, name, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "mlp", "own"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_computes_the_same(runs, tmp_path, rng, name):
    torch = pytest.importorskip("torch")
    out = tmp_path / "m.pt"
    words = ("--format", "torchscript", "-o", out, "--task-folder", runs.parent)
    shape = ("--input-shape", "2") if name == "own" else ()
    call("models", "export", f"{name}-5", *at(runs), *words, *shape)
    extra = {"choral.json": ""}
    module = torch.jit.load(io.BytesIO(out.read_bytes()), _extra_files=extra)
    assert json.loads(extra["choral.json"])["run_id"].startswith(name)
    x = rng.normal(size=(5, 2)).astype(np.float32)
    found = module(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(found, expected(runs, name, x), rtol=1e-4, atol=1e-5)


def test_safetensors_is_the_very_file(runs, tmp_path):
    out = tmp_path / "m.safetensors"
    call("models", "export", "mlp-5", *at(runs), "-o", out)
    assert out.read_bytes() == (runs / "mlp-5" / "model.safetensors").read_bytes()


def test_an_example_of_unknown_shape_and_a_task_that_is_not_there(runs, tmp_path):
    words = ("models", "export", "own-5", *at(runs), "--format", "onnx", "-o", tmp_path / "m")
    with pytest.raises(ConfigError, match="what shape"):
        call(*words, "--task-folder", runs.parent)
    with pytest.raises(ConfigError, match="input-shape"):
        call(*words, "--task-folder", runs.parent, "--input-shape", "2,x")
    with pytest.raises(ConfigError, match="cannot be traced"):
        call(*words, "--task-folder", runs.parent, "--input-shape", "3")
    words = ("models", "export", "linear-5", *at(runs), "--format", "onnx")
    with pytest.raises(ConfigError, match="shape"):
        call(*words, "-o", tmp_path / "m", "--input-shape", "3")
    with pytest.raises(UnknownName):
        call("models", "export", "own-5", *at(runs), "--format", "pickel", "-o", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_missing_package_has_a_name(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ChoralError, match="onnx") as caught:
        call("models", "export", "mlp-5", *at(runs), "--format", "onnx", "-o", tmp_path / "m")
    assert caught.value.code == "missing_extra"


def test_lists_shows_and_compares(runs):
    listed = json.loads(call("models", "list", *at(runs), "--json"))
    assert [m["rounds"] for m in listed["models"]] == [1, 1, 1, 1]
    assert listed["current"] is None
    shown = json.loads(call("models", "show", "linear-5", *at(runs), "--json"))
    assert shown["cohort_sizes"] == [3]
    assert shown["strategy"] == "fedavg"
    text = call("models", "show", "linear-5", *at(runs))
    assert shown["parent_sha256"] in text
    assert "1 x 2" in text
    apart = json.loads(call("models", "diff", "linear-5", "linear-6", *at(runs), "--json"))
    assert "seed was 5 and is 6" in apart["lineage"]
    assert {t["name"] for t in apart["tensors"]} == {"weight", "bias"}
    same = json.loads(call("models", "diff", "mlp-5", "mlp-5", *at(runs), "--json"))
    assert same["lineage"] == []
    assert [t["difference"] for t in same["tensors"]] == [0.0] * 4


def test_promotes_and_rolls_back(runs):
    for name in ("linear-5", "mlp-5"):
        call("models", "promote", name, *at(runs), "--by", "ruth", "--note", "trial")
    assert "* " in call("models", "list", *at(runs))
    back = json.loads(call("models", "rollback", *at(runs), "--by", "otto", "--json"))
    assert (back["action"], back["by"]) == ("rollback", "otto")
    shown = json.loads(call("models", "show", "current", *at(runs), "--json"))
    assert shown["model_sha256"] == back["sha256"]
    assert shown["current"]


def test_a_damaged_model_is_neither_shown_nor_exported(runs, tmp_path):
    path = runs / "linear-6" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        for words in (("show",), ("export", "-o", tmp_path / "m"), ("promote",)):
            with pytest.raises(CorruptBlob):
                call("models", words[0], "linear-6", *at(runs), *words[1:])
    finally:
        path.write_bytes(whole)
    assert not (tmp_path / "m").exists()


def test_the_folder_is_found_as_a_coordinator_finds_it(runs, tmp_path, monkeypatch):
    def listed(*words):
        return [
            row["run_id"] for row in json.loads(call("models", "list", *words, "--json"))["models"]
        ]

    for name in ("CHORAL_STORAGE_PATH", "CHORAL_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    there = listed(*at(runs))
    assert there
    assert listed() == []
    file = tmp_path / "federation.yaml"
    file.write_text(f"name: x\nstorage: {{path: {runs}}}\n")
    assert listed("--config", file) == there
    assert call("models", "show", "linear-5", "--config", file)
    monkeypatch.setenv("CHORAL_CONFIG", str(file))
    assert listed() == there
    assert listed("--path", tmp_path) == []
    monkeypatch.setenv("CHORAL_STORAGE_PATH", str(tmp_path))
    assert listed() == []
    monkeypatch.delenv("CHORAL_STORAGE_PATH")
    with pytest.raises(ConfigError, match="cannot read"):
        listed("--config", tmp_path / "none.yaml")
