import json

from typer.testing import CliRunner

from choral.cli.secagg import app
from choral.core.errors import PlanError

RUN = CliRunner()


def test_json_has_the_check_values():
    words = "params --clients 1000 --corrupt 0.05 --dropout 0.1 --json"
    shown = json.loads(RUN.invoke(app, words.split()).stdout)
    assert (shown["suite"], shown["k"], shown["t"], shown["sigma"]) == ("graph", 78, 52, 40)
    assert shown["threat_model"] == "semi-malicious"


def test_semi_honest_json():
    words = "params --clients 10000 --corrupt 0.05 --dropout 0.1 --semi-honest --json"
    shown = json.loads(RUN.invoke(app, words.split()).stdout)
    assert (shown["suite"], shown["k"], shown["t"]) == ("semi_honest", 42, 22)


def test_without_a_beacon_it_says_semi_malicious():
    words = "params --clients 1000 --no-beacon --json"
    shown = json.loads(RUN.invoke(app, words.split()).stdout)
    assert (shown["sigma"], shown["threat_model"]) == (80, "semi-malicious")


def test_table_for_people():
    shown = RUN.invoke(app, ["params", "--clients", "4"])
    assert shown.exit_code == 0
    assert "3 of 4" in shown.stdout
    assert "active server" in shown.stdout


def test_refusal_is_an_error_of_ours():
    result = RUN.invoke(app, ["params", "--clients", "10", "--corrupt", "0.5", "--dropout", "0.3"])
    assert isinstance(result.exception, PlanError)
