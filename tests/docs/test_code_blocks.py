"""Every block of code in the documentation runs, and every command in it exists."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from choral.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path(__file__).with_name("page.py")


def load_page_module():
    spec = importlib.util.spec_from_file_location("documentation_page", PAGE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


page = load_page_module()


def pages():
    found = [ROOT / f"{n}.md" for n in ("README", "CONTRIBUTING", "SECURITY", "ARCHITECTURE")]
    for folder, pattern in (("docs", "*.md"), ("src", "README.md"), ("examples", "README.md")):
        found += sorted((ROOT / folder).rglob(pattern))
    return found


PAGES = pages()
BLOCKS = [(p, b) for p in PAGES for b in page.blocks(p.read_text(encoding="utf-8"))]
RUNS = [
    p
    for p in PAGES
    if any(
        not b.exempt and b.language in {"python", "yaml", "console", "bash"}
        for q, b in BLOCKS
        if q == p
    )
]


def name(value):
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else f"line {value.line}"


def needs(path):
    """Packages that a page uses and that may be missing."""
    text = path.read_text(encoding="utf-8")
    if "examples/heart" in text or "choral demo" in text:
        text += "import torch, sklearn"
    if "choral.privacy" in text:
        text += "import dp_accounting"
    return [m for m in ("torch", "sklearn", "pyarrow", "dp_accounting") if m in text]


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_a_page_runs(path, tmp_path):
    for module in needs(path):
        pytest.importorskip(module)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CHORAL_")}
    done = subprocess.run(
        [sys.executable, PAGE, path],
        cwd=tmp_path,
        env=clean | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_first_pages_have_code_that_runs():
    for path in ("README.md", "docs/guides/quickstart.md", "docs/guides/write-a-strategy.md"):
        assert ROOT / path in RUNS


@pytest.mark.parametrize(("path", "block"), BLOCKS, ids=name)
def test_a_block_is_of_a_known_kind_and_closed(path, block):
    assert block.language in {"python", "yaml", "console", "bash", "text", "json", "csv"}


def choral_commands():
    found = []
    for path, block in BLOCKS:
        for words in block.commands:
            arguments = page.choral_words(words)
            if arguments is not None:
                found.append((path, block, arguments))
    return found


COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize(("path", "block", "arguments"), choral_commands())
def test_a_command_and_its_options_exist(path, block, arguments):
    if arguments[0] in {"--help", "--version"}:
        return
    command, *arguments = COMMANDS[arguments[0]], *arguments[1:]
    if hasattr(command, "commands"):  # a group: its own command is the next word
        command, *arguments = command.commands[arguments[0]], *arguments[1:]
    known = {o for p in command.params for o in p.opts} | {"--help"}
    given = [a.partition("=")[0] for a in arguments if a.startswith("--")]
    assert set(given) <= known


def test_a_make_target_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for path, block in BLOCKS:
        for words in block.commands:
            if words[:1] == ["make"]:
                assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"{path}: {words}"


def test_a_failing_block_is_found(tmp_path):
    """The runner itself: an assertion, a wrong output and an unknown key are each caught."""
    for text in (
        "```python\nassert 1 + 1 == 3\n```\n",
        '```python\nprint("a")\n```\n\n```text title="output"\nb\n```\n',
        '```yaml title="federation.yaml"\nroundz: 3\n```\n',
        "```console\n$ choral simulate absent.yaml\n```\n",
        "```bash\nfalse | cat\n```\n",
    ):
        path = tmp_path / "page.md"
        path.write_text(text)
        done = subprocess.run(
            [sys.executable, PAGE, path], cwd=tmp_path, capture_output=True, check=False
        )
        assert done.returncode == 1, text


def test_an_exempt_block_is_not_run(tmp_path):
    (found,) = page.blocks("<!-- not run: a fragment -->\n\n```python\n1 / 0\n```\n")
    assert found.exempt == "a fragment"
    assert not page.blocks("```python\n1\n```\n")[0].exempt
