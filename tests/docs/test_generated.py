"""Generated pages are current, and pages that list things list all of them."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import choral
from choral.tasks.numpy import LinearTask

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"


def test_generated_pages_are_current():
    for module in ("torch", "sklearn"):
        pytest.importorskip(module)
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_docs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (
        f"{done.stdout}{done.stderr}\nrun: .venv/bin/python scripts/generate_docs.py"
    )


def table_paths(text):
    """The first cells of all tables of a page, without their code marks."""
    return set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))


def paths(value, prefix=""):
    """Every field of a JSON object, as in `rounds[].round`, down to people's own names."""
    named = {"metrics", "client_metrics", "strata", "config", "arguments"}
    if isinstance(value, dict):
        for key, inner in value.items():
            at = f"{prefix}.{key}" if prefix else key
            yield at
            if key not in named:
                yield from paths(inner, at)
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner, f"{prefix}[]")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with failures, strata and files, so that every field is there."""
    rng = np.random.default_rng(0)

    def client(region):
        return choral.ClientData(
            (rng.normal(size=(20, 3)), rng.integers(0, 2, 20)), strata={"region": region}
        )

    clients = {"a": client("north"), "b": client("north"), "c": client("south")}
    clients["d"] = choral.ClientData((np.zeros((3, 2)), np.zeros(3, int)), strata={"region": "x"})
    out = tmp_path_factory.mktemp("run") / "out"
    return choral.simulate(
        LinearTask("logistic", input_dim=3),
        clients=clients,
        rounds=1,
        selection=choral.selection.Stratified(by="region"),
        seed=1,
        out=out,
    )


def test_every_field_of_a_result_is_documented(run):
    text = (REFERENCE / "result.md").read_text(encoding="utf-8")
    assert run.failures
    found = set(paths(run.to_json()))
    assert found - table_paths(text) == set()


def test_every_field_of_the_lineage_is_documented(run):
    import json

    lineage = json.loads(run.model_path.with_name("model.json").read_text())
    text = (REFERENCE / "result.md").read_text(encoding="utf-8")
    assert {f"model.json: {p}" for p in paths(lineage)} - table_paths(text) == set()


def test_no_field_is_documented_that_is_not_there(run):
    import json

    lineage = json.loads(run.model_path.with_name("model.json").read_text())
    known = set(paths(run.to_json())) | {f"model.json: {p}" for p in paths(lineage)}
    files = {p for p in table_paths((REFERENCE / "result.md").read_text()) if "/" in p}
    documented = table_paths((REFERENCE / "result.md").read_text(encoding="utf-8")) - files
    assert documented - known == set()


def test_the_glossary_lists_its_words_once_and_in_order():
    text = (ROOT / "docs" / "concepts" / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\*\*(.+?)\*\*", text, re.MULTILINE)
    assert len(words) > 50
    assert words == sorted(set(words), key=str.lower)


def test_the_architecture_page_has_the_layers_of_the_import_contract():
    import tomllib

    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    (drawn,) = re.findall(r'```text title="layers"\n(.*?)```', page, re.DOTALL)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(
        c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers"
    )
    layers = contract["layers"]
    assert drawn.splitlines() == layers
    rooms = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert rooms == {r for layer in layers for r in layer.split(" | ")}
