"""The federation file: what it may hold, and what is said of the rest."""

import pytest

from choral.config.federation import FederationFile, parse, read_file
from choral.core.errors import ConfigError, UnknownKey

FULL = """
name: heart
task: heart_task:task
rounds: 15
clients_per_round: 0.5
strategy: {name: fedprox, mu: 0.01}
selection: {name: stratified, by: region}
aggregation: plain
local: {epochs: 1, batch_size: 16, lr: 0.05}
round: {goal: 4, quorum: 3, over_selection: 1.5, deadline_s: 600, retries: 3}
evaluation: {every: 1, clients: true, held_out: data/pooled_test.csv}
encoding: {range: 64, weight_unit: 128, weight_cap: 4096}
storage: {path: ./models, database: "sqlite:///choral.db"}
tls: {certificate: a, key: b, authority: c}
simulation:
  data: data/
  partition: {name: dirichlet, alpha: 0.3, clients: 100}
  schema: schema.yaml
seed: 42
"""


def write(tmp_path, text):
    path = tmp_path / "federation.yaml"
    path.write_text(text)
    return path


def test_every_section(tmp_path):
    file = read_file(write(tmp_path, FULL))
    assert (file.name, file.rounds, file.clients_per_round, file.seed) == ("heart", 15, 0.5, 42)
    assert file.local.batch_size == 16
    assert file.simulation.schema_ == "schema.yaml"
    assert file.as_json()["simulation"]["schema"] == "schema.yaml"


def test_what_was_set_survives_json(tmp_path):
    file = read_file(write(tmp_path, FULL))
    assert parse(file.as_json(), where="json") == file


def test_an_empty_file_is_a_federation_without_rounds(tmp_path):
    assert read_file(write(tmp_path, "")) == FederationFile()


def test_settings_win_and_make_sections(tmp_path):
    settings = ["local.lr=1e-3", "strategy=fedavg", "simulation.data=x/", "rounds=3", "name=b"]
    file = read_file(write(tmp_path, "rounds: 9"), settings)
    assert (file.rounds, file.local.lr, file.strategy) == (3, 1e-3, "fedavg")
    assert file.simulation.data == "x/"


def test_a_setting_into_a_name_keeps_the_name(tmp_path):
    file = read_file(write(tmp_path, "strategy: fedprox"), ["strategy.mu=0.5"])
    assert file.strategy == {"name": "fedprox", "mu": 0.5}


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("rouns: 3", "did you mean `rounds`?"),
        ("local: {lrr: 1}", "did you mean `lr`?"),
        ("simulation: {dta: x}", "did you mean `data`?"),
        ("tls: {certficate: x}", "did you mean `certificate`?"),
        ("simulation: {schema_: x}", "schema"),
    ],
)
def test_unknown_keys_name_the_nearest(tmp_path, text, hint):
    with pytest.raises(UnknownKey, match="unknown key") as caught:
        read_file(write(tmp_path, text))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rounds: 0", "`rounds` is 0"),
        ("rounds: 2.5", "`rounds` is 2.5"),
        ("rounds: abc", "`rounds` is 'abc'"),
        ("seed: -1", "`seed` is -1"),
        ("clients_per_round: 0", "`clients_per_round`"),
        ("name: ../x", "`name` is '../x'"),
        ("evaluation: {test_fraction: 1}", "`evaluation.test_fraction`"),
        ("local: 3", "`local`"),
        ("- a", "expected keys and values"),
        ("5", "expected keys and values"),
    ],
)
def test_wrong_values_are_named(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        read_file(write(tmp_path, text))
    assert words in caught.value.message


@pytest.mark.parametrize("setting", ["nonsense", "=3", "rounds.x=3", "local.lr=[1"])
def test_wrong_settings_are_named(tmp_path, setting):
    with pytest.raises(ConfigError, match="--set"):
        read_file(write(tmp_path, "rounds: 3"), [setting])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*No such file"):
        read_file(tmp_path / "nowhere.yaml")


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "f.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read"):
        read_file(tmp_path / "f.yaml")
