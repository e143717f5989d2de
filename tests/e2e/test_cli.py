"""The command line as a user meets it: real processes, exit codes, streams."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEART = ROOT / "examples" / "heart"


def choral(*arguments, cwd, env=None, check=None):
    done = subprocess.run(
        [sys.executable, "-m", "choral", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **(env or {})},
        timeout=120,
        check=False,
    )
    if check is not None:
        assert done.returncode == check, done.stderr
    assert "Traceback (most recent call last)" not in done.stderr or "client" in done.stderr
    return done


@pytest.fixture
def site(tmp_path):
    """Return a folder with a federation of three CSV clients."""
    data = tmp_path / "data"
    data.mkdir()
    for i, name in enumerate(("a", "b", "c")):
        rows = [f"{(j * 7 + i) % 5},{(j * 3 + i) % 4},{(j + i) % 2}" for j in range(20)]
        (data / f"{name}.csv").write_text("x1,x2,y\n" + "\n".join(rows) + "\n")
    (tmp_path / "federation.yaml").write_text(
        "name: small\nmodel: {type: logistic, input_dim: 2}\nrounds: 3\n"
        "simulation: {data: data/}\nseed: 5\n"
    )
    return tmp_path


def test_json_on_stdout_and_progress_on_stderr(site):
    done = choral("simulate", "federation.yaml", "--json", cwd=site, check=0)
    result = json.loads(done.stdout)
    assert result["status"] == "completed"
    assert result["name"] == "small"
    assert result["seed"] == 5
    assert result["aggregation"] == {"kind": "plain"}
    assert [r["round"] for r in result["rounds"]] == [1, 2, 3]
    assert set(result["client_metrics"]) == {"a", "b", "c"}
    assert {"accuracy", "loss"} <= set(result["metrics"])
    assert result["privacy"]["epsilon"] is None
    assert result["failures"] == []
    assert "round 3/3" in done.stderr
    assert Path(site, result["model_path"]).exists()


def test_a_table_for_people(site):
    done = choral("simulate", "federation.yaml", cwd=site, check=0)
    assert "accuracy" in done.stdout
    assert "sha256" in done.stdout
    assert "\x1b[" not in done.stdout + done.stderr


def test_flags_win_over_environment_and_file(site):
    run = ("simulate", "federation.yaml", "--json")
    env = {"CHORAL_SEED": "8", "CHORAL_ROUNDS": "2"}
    from_env = json.loads(choral(*run, cwd=site, env=env, check=0).stdout)
    assert (from_env["seed"], len(from_env["rounds"])) == (8, 2)
    flags = json.loads(choral(*run, "--seed", 9, "--rounds", 1, cwd=site, env=env, check=0).stdout)
    assert (flags["seed"], len(flags["rounds"])) == (9, 1)


def test_set_and_storage_path(site):
    done = choral(
        "simulate",
        "federation.yaml",
        "--json",
        *("--set", "strategy.name=fedprox", "--set", "strategy.mu=1e-2", "--set", "local.lr=0.1"),
        cwd=site,
        env={"CHORAL_STORAGE_PATH": str(site / "elsewhere")},
        check=0,
    )
    result = json.loads(done.stdout)
    assert result["strategy"] == "fedprox"
    assert Path(result["model_path"]).parent.parent == site / "elsewhere"


def test_workers_give_the_same_model(site):
    run = ("simulate", "federation.yaml", "--json")
    inline = json.loads(choral(*run, cwd=site, check=0).stdout)
    workers = json.loads(choral(*run, "--engine", "workers", cwd=site, check=0).stdout)
    assert workers["engine"] == "workers"
    assert workers["model_sha256"] == inline["model_sha256"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--set", "strategy=fedavgg"], 2, "did you mean `fedavg`"),
        (["--set", "roundz=3"], 2, "did you mean `round` or `rounds`?"),
        (["--set", "local.lrr=3"], 2, "did you mean `lr`"),
        (["--set", "strategy={name: fedprox, mv: 1}"], 2, "did you mean `mu`"),
        (["--set", "selection=unifrom"], 2, "did you mean `uniform`"),
        (["--set", "model.type=lineer"], 2, "did you mean `linear`"),
        (["--set", "task=nowhere:task", "--set", "model=null"], 2, "looked in"),
        (["--set", "task=nowhere:task"], 2, "either `task` or `model`"),
        (["--set", "rounds=0"], 2, "rounds"),
        (["--set", "rounds=many"], 2, "rounds"),
        (["--set", "clients_per_round=9"], 2, "9 of 3 clients"),
        (["--set", "local.lr=.nan"], 2, "local.lr"),
        (["--set", "aggregation=robust"], 2, "not built yet"),
        (["--set", "privacy={epsilon: 1, mode: record, mechanism: skellam}"], 2, "mechanism"),
        (["--set", "privacy={epsilon: 0}"], 2, "privacy.epsilon 0"),
        (["--set", "compression={name: quantise}"], 2, "not built yet"),
        (["--set", "simulation.data=nowhere/"], 2, "nowhere"),
        (["--data", "nowhere"], 2, "nowhere"),
        (["--set", "model.input_dim=3"], 1, "2 features, but the model's input_dim is 3"),
        (["--set", "simulation.target=z"], 2, "z"),
        (["--engine", "ray"], 2, "engine"),
        (["--set", "nonsense"], 2, "KEY=VALUE"),
        (["--set", "a: b=[1"], 2, "not YAML"),
        (["--resume"], 2, "no unfinished run"),
        (["--nonsense"], 2, "--nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_is_named_and_leaves_nothing(site, arguments, code, words):
    before = sorted(p.name for p in site.rglob("*") if "__pycache__" not in str(p))
    done = choral("simulate", "federation.yaml", *arguments, cwd=site, check=code)
    assert words in done.stderr
    assert done.stdout == ""
    after = sorted(p.name for p in site.rglob("*") if "__pycache__" not in str(p))
    assert [name for name in after if name not in before] in ([], ["runs"])


def test_an_error_as_json(site):
    done = choral("simulate", "federation.yaml", "--json", "--set", "roundz=3", cwd=site, check=2)
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "unknown_key"
    assert error["hint"] == "did you mean `round` or `rounds`?"


def test_a_corrupt_row_is_found(site):
    path = site / "data" / "b.csv"
    lines = path.read_text().splitlines()
    lines[7] = "1,oops,0"
    path.write_text("\n".join(lines))
    done = choral("simulate", "federation.yaml", cwd=site, check=2)
    assert re.search(r"b\.csv.*line 8.*x2", done.stderr)
    assert not list(site.glob("runs/*"))


def test_a_held_out_file_in_the_folder_is_no_client(site):
    (site / "data" / "a.csv").rename(site / "data" / "pooled.csv")
    setting = ("--set", "evaluation.held_out=data/pooled.csv")
    done = choral("simulate", "federation.yaml", "--json", *setting, cwd=site, check=0)
    result = json.loads(done.stdout)
    assert result["rounds"][0]["selected"] == 2
    assert {"accuracy", "loss"} <= set(result["metrics"])


def test_strata_of_a_folder_steer_the_selection(site):
    (site / "federation.yaml").write_text(
        (site / "federation.yaml")
        .read_text()
        .replace(
            "simulation: {data: data/}",
            "clients_per_round: 2\nselection: {name: stratified, by: region, minimum: 1}\n"
            "simulation: {data: data/, strata: {a: {region: n}, b: {region: n}, c: {region: s}}}",
        )
    )
    result = json.loads(choral("simulate", "federation.yaml", "--json", cwd=site, check=0).stdout)
    assert result["selection"] == "stratified"
    assert result["coverage"]["strata"]["s"]["participations"] == 3


def test_an_empty_client_is_named(site):
    (site / "data" / "c.csv").write_text("x1,x2,y\n")
    done = choral("simulate", "federation.yaml", cwd=site, check=2)
    assert "c.csv" in done.stderr
    assert not list(site.glob("runs/*"))


def test_a_client_that_raises_shows_its_traceback_once_and_the_run_goes_on(site):
    (site / "shaky.py").write_text(
        "from choral.tasks.numpy import LinearTask\n"
        "class Shaky(LinearTask):\n"
        "    def train(self, params, data, plan, key):\n"
        "        if len(data[1]) == 15:\n"
        "            raise ZeroDivisionError('bad scanner')\n"
        "        return super().train(params, data, plan, key)\n"
        "task = Shaky('logistic', input_dim=2)\n"
    )
    (site / "data" / "b.csv").write_text(
        "x1,x2,y\n" + "\n".join(f"{j},{j % 3},{j % 2}" for j in range(19)) + "\n"
    )
    setting = ("--set", "model=null", "--set", "task=shaky:task")
    done = choral("simulate", "federation.yaml", "--json", *setting, cwd=site, check=0)
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "bad scanner" in done.stderr
    result = json.loads(done.stdout)
    assert {f["client"] for f in result["failures"]} == {"b"}
    assert all(r["completed"] == 2 for r in result["rounds"])


def test_too_few_clients_fail_the_run_with_its_json(site):
    (site / "broken.py").write_text(
        "from choral.tasks.numpy import LinearTask\n"
        "class Broken(LinearTask):\n"
        "    def train(self, params, data, plan, key):\n"
        "        raise ValueError('no luck')\n"
        "task = Broken('logistic', input_dim=2)\n"
    )
    setting = ("--set", "model=null", "--set", "task=broken:task")
    done = choral("simulate", "federation.yaml", "--json", *setting, cwd=site, check=1)
    result = json.loads(done.stdout)
    assert result["status"] == "failed"
    assert result["failures"][0]["message"] == "ValueError: no luck"
    assert "no quorum" in done.stderr
    assert not list(site.glob("runs/*"))


@pytest.mark.parametrize("command", ["new", "report"])
def test_what_is_not_built_says_so(command, tmp_path):
    done = choral(command, "--whatever", cwd=tmp_path, check=2)
    assert f"`choral {command}` is not built yet" in done.stderr


def test_version_and_help(tmp_path):
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", choral("--version", cwd=tmp_path, check=0).stdout)
    assert "simulate" in choral("--help", cwd=tmp_path, check=0).stdout


def test_the_article_s_file_simulates_without_its_privacy_block(site):
    (site / "config.yaml").write_text(
        "rounds: 2\nclients_per_round: 3\naggregation: plain\n"
        "model:\n  type: linear\n  input_dim: 2\nstorage:\n  path: /nowhere\n"
    )
    done = choral(
        "simulate",
        "config.yaml",
        "--data",
        "data",
        "--json",
        cwd=site,
        env={"CHORAL_STORAGE_PATH": str(site / "models")},
        check=0,
    )
    assert len(json.loads(done.stdout)["rounds"]) == 2


def test_a_budget_ends_a_run_with_exit_code_3(site):
    privacy = "privacy={noise_multiplier: 2, max_norm: 1, budget: {epsilon: 4, population: people}}"
    arguments = ("simulate", "federation.yaml", "--set", privacy, "--rounds", "5", "--json")
    env = {"CHORAL_STORAGE_PATH": str(site / "models")}
    done = choral(*arguments, cwd=site, env=env, check=3)
    result = json.loads(done.stdout)
    assert result["status"] == "failed"
    assert [r["round"] for r in result["rounds"]] == [1, 2]
    assert "is left" in result["reason"]
    shown = choral("ledger", "show", "--population", "people", "--json", cwd=site, env=env, check=0)
    (one,) = json.loads(shown.stdout)["populations"]
    assert (one["spent"], one["rounds_left"], one["limit"]) == (2, 0, 4.0)
    assert one["epsilon"] <= 4.0
    again = choral(*arguments, cwd=site, env=env, check=3)
    assert json.loads(again.stdout)["rounds"] == []
    choral("ledger", "verify", cwd=site, env=env, check=0)


def start_and_kill(arguments, cwd, after_round):
    """Start a simulation, wait until a round has committed, and kill it with SIGKILL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "choral", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )
    for line in process.stderr:
        shown = re.match(r"round (\d+)/", line)  # a busy machine shows fewer of them
        if shown and int(shown.group(1)) >= after_round:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()


@pytest.mark.parametrize("engine", ["inline", "workers"])
def test_kill_minus_nine_and_resume(site, engine):
    run = ["simulate", "federation.yaml", "--rounds", "400", "--engine", engine, "--json"]
    start_and_kill([*run, "--out", "killed"], site, 20)
    assert (site / "killed.partial").exists()
    assert not (site / "killed").exists()
    resumed = json.loads(choral(*run, "--out", "killed", "--resume", cwd=site, check=0).stdout)
    whole = json.loads(choral(*run, "--out", "whole", cwd=site, check=0).stdout)
    assert resumed["model_sha256"] == whole["model_sha256"]
    assert len(resumed["rounds"]) == 400
    assert [r["metrics"] for r in resumed["rounds"]] == [r["metrics"] for r in whole["rounds"]]
    assert not (site / "killed.partial").exists()


def test_resume_finds_the_newest_run_and_refuses_another_configuration(site):
    run = ["simulate", "federation.yaml", "--rounds", "20000"]
    start_and_kill(run, site, 5)
    other = choral(*run, "--resume", "--set", "local.lr=0.5", cwd=site, check=2)
    assert "local.lr was null and is 0.5" in other.stderr or "local was" in other.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "choral", *run, "--resume"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=site,
        # a shell that starts tests in the background lets them ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if len(lines) > 4:
            break
    process.send_signal(signal.SIGINT)
    process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 130
    assert any(re.match(r"round (\d+)/20000", line) for line in lines)


def test_workers_leave_no_process_when_killed(site):
    run = ["simulate", "federation.yaml", "--rounds", "20000", "--engine", "workers"]
    start_and_kill([*run, "--out", "killed"], site, 3)
    deadline = time.monotonic() + 20
    while _children_of(site) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _children_of(site)


def _children_of(site):
    """Return processes that still run in the site's folder."""
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            if (proc / "cwd").resolve() == site.resolve():
                found.append(proc.name)
        except OSError:
            continue
    return found


def test_heart_runs_from_any_folder(tmp_path):
    pytest.importorskip("torch")
    file = str(HEART / "federation.yaml")
    done = choral("simulate", file, "--rounds", "2", "--json", cwd=tmp_path, check=0)
    assert set(json.loads(done.stdout)["client_metrics"]) == {
        "cleveland",
        "hungarian",
        "switzerland",
        "va",
    }
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    assert list(tmp_path.iterdir()) == []
