"""`choral client` as a process: the environment, its log, signals and exit codes."""

import asyncio
import json
import logging
import os
import signal
import sys

import pytest
from typer.testing import CliRunner

from choral.cli.app import app
from choral.core.errors import ConfigError, DataError, Refused
from choral.wire.v1 import run_pb2

RUN = CliRunner()


@pytest.fixture(autouse=True)
def _own_log():
    """Take back what the command does to the package's log."""
    logger = logging.getLogger("choral")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


class Client:
    """A process whose log is read line by line."""

    def __init__(self, process):
        self.process, self.lines = process, []

    async def until(self, words):
        while line := await self.process.stderr.readline():
            self.lines.append(line.decode())
            if words in self.lines[-1]:
                return self.lines[-1]
        raise AssertionError(f"{words!r} was not said:\n{''.join(self.lines)}")

    async def code(self):
        self.lines += (await self.process.stderr.read()).decode().splitlines(keepends=True)
        return await asyncio.wait_for(self.process.wait(), 30)


@pytest.fixture
def start(federation):
    """Return a function that starts a client which knows nothing but its environment."""

    async def started(address, *words, **environment):
        said = {
            "CLIENT_ID": "a",
            "DATA_PATH": str(federation.write_data("a")),
            "COORDINATOR": address,
            "OPENBLAS_NUM_THREADS": "1",
            **environment,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "choral",
            "client",
            "--insecure",
            *words,
            cwd=federation.folder,
            env=os.environ | said,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        return Client(process)

    return started


def gone(pid):
    """Return whether a process has ended, or is about to be reaped by whoever inherited it."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def ends(pid):
    for _ in range(500):
        if gone(pid):
            return True
        await asyncio.sleep(0.02)
    return False


def test_the_environment_alone_is_enough(federation, serve, start):
    script = federation.script
    token = script.assign("a", federation.plan)

    async def main():
        async with serve(script) as address:
            client = await start(address, "--until-done", "--json")
            return await client.code(), client.lines

    code, lines = asyncio.run(main())
    assert code == 0, "".join(lines)
    assert script.uploads[token] == federation.expected_bytes("a")
    log = [json.loads(line) for line in lines]
    words = "\n".join(line["message"] for line in log)
    assert "no site policy" in words
    assert "identity" in words
    assert "bytes are receipted" in words
    assert (federation.folder / "state-a").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("status", ["RUN_STATUS_FAILED", "RUN_STATUS_STOPPED"])
def test_a_run_that_did_not_complete_is_exit_code_1(federation, serve, start, status):
    federation.script.farewell = run_pb2.RunStatus.Value(status)

    async def main():
        async with serve(federation.script) as address:
            client = await start(address, "--until-done")
            return await client.code(), "".join(client.lines)

    code, said = asyncio.run(main())
    assert code == 1, said
    assert "Traceback" not in said


ENDLESS = """
import os, pathlib, threading
from choral.tasks.numpy import LinearTask


class Task(LinearTask):
    def train(self, params, data, plan, key):
        mark = pathlib.Path(__file__).with_suffix(".pid")
        mark.with_suffix(".tmp").write_text(str(os.getpid()))
        mark.with_suffix(".tmp").rename(mark)
        threading.Event().wait()


task = Task(input_dim=3)
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_signal_ends_it_and_its_child_in_the_middle_of_training(
    federation, serve, start, number, code
):
    from dataclasses import replace

    (federation.folder / "endless.py").write_text(ENDLESS)
    plan = replace(federation.plan, task="endless:task", arguments="")
    federation.script.assign("a", plan)
    mark = federation.folder / "endless.pid"

    async def main():
        async with serve(federation.script) as address:
            client = await start(address)
            while not mark.exists():
                await asyncio.sleep(0.02)
            client.process.send_signal(number)
            found = await client.code()
            return found, await ends(int(mark.read_text())), "".join(client.lines)

    found, ended, said = asyncio.run(main())
    assert found == code, said
    assert ended
    assert "Traceback" not in said


def invoke(words, **environment):
    """Run the command here; return the error that it ends with."""
    return RUN.invoke(app, ["client", *words], env=environment).exception


def test_plain_text_to_another_machine_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHORAL_ALLOW_INSECURE", raising=False)
    words = ["--insecure", "--id", "a", "--data", "a.csv", "--coordinator", "192.0.2.1:1"]
    error = invoke(words)
    assert isinstance(error, Refused)
    assert error.exit_code == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--insecure", "--data", "a.csv"], "no id"),
        (["--insecure", "--id", "a"], "no data"),
        (["--id", "a", "--data", "a.csv"], "no certificates"),
        (["--insecure", "--config", "nowhere.yaml"], "cannot read"),
        (["--insecure", "--id", "a", "--data", "a.csv", "--policy", "no.yaml"], "site policy"),
    ],
)
def test_what_is_missing_is_exit_code_2(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    error = invoke(words)
    assert isinstance(error, ConfigError), error
    assert message in error.message
    assert error.exit_code == 2


def test_without_a_policy_a_client_with_certificates_does_nothing(parties, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parties.party("hospital-a")
    (tmp_path / "client.yaml").write_text("data: a.csv\ncredentials: pki/hospital-a\n")
    error = invoke(["--config", "client.yaml"])
    assert isinstance(error, ConfigError)
    assert "no site policy" in error.message


def test_data_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = invoke(["--insecure", "--id", "a", "--data", "a.csv"])
    assert isinstance(error, DataError)
    assert "a.csv" in error.message
