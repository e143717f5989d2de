"""`choral run watch`: a run that is watched ends the command with the run's exit code."""

from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from choral.cli import run as commands
from choral.cli.app import app
from choral.client.admin import Event
from choral.core.errors import ChoralError

RUN = CliRunner()
OVER = Event(2, "OverBudget", {"round": 3, "attempt": 1, "reason": "`people` has used epsilon 3"})
FAILED = Event(3, "Finish", {"status": "failed", "reason": "`people` has used epsilon 3"})
LOST = Event(3, "Finish", {"status": "failed", "reason": "no_quorum"})


class Calls:
    """A coordinator with one run."""

    def __init__(self, events, body):
        self.events, self.body = events, body

    def watch(self, run):
        return iter(self.events)

    def run(self, run):
        return self.body


def body(status, code=""):
    return {"status": status, "reason": "why", "code": code}


@pytest.mark.parametrize("words", [(), ("--json",)])
@pytest.mark.parametrize(
    ("events", "told", "code"),
    [
        ([OVER, FAILED], body("failed", "budget_exhausted"), 3),
        ([OVER, FAILED], body("running"), 3),
        ([], body("failed", "budget_exhausted"), 3),
        ([], body("failed", "refused"), 3),
        ([], body("failed", "rolled_back_ledger"), 1),
        ([LOST], body("failed"), 1),
        ([Event(3, "Finish", {"status": "completed", "reason": ""})], body("completed"), 0),
    ],
)
def test_watching_ends_with_the_code_of_the_run(monkeypatch, events, told, code, words):
    @contextmanager
    def calls(*_, **__):
        yield Calls(events, told)

    monkeypatch.setattr(commands, "_calls", calls)
    done = RUN.invoke(app, ["run", "watch", "r", *words])
    if isinstance(done.exception, ChoralError):
        assert done.exception.exit_code == code
    else:
        assert done.exit_code == code
