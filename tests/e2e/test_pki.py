"""`choral pki` as a real process: its own clock and randomness, exit codes, streams."""

import json
import os
import subprocess
import sys

from choral.pki.names import Role
from choral.pki.requests import make_request


def choral(*arguments, cwd, check):
    done = subprocess.run(
        [sys.executable, "-m", "choral", "pki", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100"},
        timeout=120,
        check=False,
    )
    assert done.returncode == check, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_exit_codes_and_streams(tmp_path):
    made = json.loads(choral("init", "a", "--json", cwd=tmp_path, check=0).stdout)
    assert made["federation"] == "federation"
    again = choral("init", "a", "--json", cwd=tmp_path, check=2)
    assert json.loads(again.stdout)["error"]["code"] == "certificate"
    assert "hint: keys are never overwritten" in again.stderr
    make_request(tmp_path / "eve", id="eve", role=Role.OPERATOR)
    refused = choral("sign", "a", "eve/request.json", cwd=tmp_path, check=3)
    assert "asks for the role operator, not client" in refused.stderr
