"""A page of the documentation as something that runs. `python page.py PAGE` runs it here.

In the order of the page, in the working folder:

- a block with `title="NAME"` is written to that file; a Python file is imported, too
- another `python` block is executed; all blocks of a page share their names
- a YAML file, and every piece of YAML, must be what its name says: `client.yaml`, `policy.yaml`,
  another name for a schema, and a federation file or a part of one without a name
- a `bash` block is a script that must succeed
- in `console` blocks, lines after `$` that run `choral` or one of the page's own files are run
- a `text` block with `title="output"` must be what the block before it printed

`<!-- not run: REASON -->` before a block exempts it; the options of its commands are checked still.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+)(.*)$")
TITLE = re.compile(r'title="([^"]+)"')
EXEMPT = re.compile(r"^<!-- not run: (\S.*) -->$")
CHORAL = ("choral", ".venv/bin/choral")


@dataclass(frozen=True)
class Block:
    """One fenced block: language, title, text, the line of its first line, why it is not run."""

    language: str
    title: str
    text: str
    line: int
    exempt: str = ""

    @property
    def commands(self) -> list[list[str]]:
        """The words of every command in a console block."""
        lines = [t.removeprefix("$ ") for t in self.text.splitlines() if t.startswith("$ ")]
        return [shlex.split(t, comments=True) for t in lines]


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    found, lines, at = [], text.splitlines(), 0
    while at < len(lines):
        opening = FENCE.match(lines[at])
        if opening is None:
            at += 1
            continue
        end = lines.index("```", at + 1)
        above = next((t for t in reversed(lines[:at]) if t.strip()), "")
        exempt = EXEMPT.match(above)
        title = TITLE.search(opening.group(2))
        found.append(
            Block(
                opening.group(1),
                title.group(1) if title else "",
                "\n".join(lines[at + 1 : end]) + "\n",
                at + 2,
                exempt.group(1) if exempt else "",
            )
        )
        at = end + 1
    return found


def choral_words(words: list[str]) -> list[str] | None:
    """Return the arguments of a `choral` command, or None for another command."""
    if words[:1] and words[0] in CHORAL:
        return words[1:]
    if words[1:3] == ["-m", "choral"]:
        return words[3:]
    return None


class Page:
    """Runs a page's blocks in the working folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: dict[str, object] = {"__name__": "__main__"}
        self.printed = ""

    def run(self) -> None:
        for block in blocks(self.path.read_text(encoding="utf-8")):
            try:
                self._run(block)
            except BaseException:
                sys.stdout.write(f"{self.path}:{block.line}: this block failed\n")
                sys.stdout.write(f"{block.text}\nafter printing\n{self.printed}\n")
                raise

    def _run(self, block: Block) -> None:
        if block.title and block.title != "output":
            target = Path(block.title)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        if block.exempt:
            return
        if block.title == "output":
            assert self.printed == block.text, f"printed {self.printed!r}"
        elif block.language == "python":
            self._python(block)
        elif block.language == "yaml":
            self._yaml(block)
        elif block.language == "bash":
            self._script(block)
        elif block.language == "console":
            for words in block.commands:
                self._command(words)

    def _python(self, block: Block) -> None:
        with self._capture():
            if block.title:
                importlib.invalidate_caches()
                importlib.import_module(Path(block.title).stem)
            else:
                source = "\n" * (block.line - 1) + block.text
                exec(compile(source, str(self.path), "exec"), self.names)  # noqa: S102

    def _yaml(self, block: Block) -> None:
        from choral.client.policy import read_policy
        from choral.client.settings import read_client_file
        from choral.config.federation import parse
        from choral.config.yaml import load
        from choral.data import Schema

        if block.title.endswith("client.yaml"):
            read_client_file(Path(block.title))
        elif block.title.endswith("policy.yaml"):
            read_policy(Path(block.title))
        elif block.title and not block.title.endswith("federation.yaml"):
            Schema.from_yaml(block.title)
        else:
            parse(load(block.text, where=str(self.path)), where=str(self.path))

    def _command(self, words: list[str]) -> None:
        arguments = choral_words(words)
        with self._capture():
            if arguments is not None:
                run_choral(arguments)
            elif words[0] == "python" and Path(words[1]).is_file():
                source = Path(words[1]).read_text()
                exec(compile(source, words[1], "exec"), {"__name__": "__main__"})  # noqa: S102

    def _script(self, block: Block) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(  # the page's own words
            ["bash", "-eu", "-o", "pipefail", "-c", block.text],
            env=os.environ | {"PATH": path},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        self.printed = done.stdout

    @contextlib.contextmanager
    def _capture(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            try:
                yield
            finally:
                self.printed = out.getvalue()


def run_choral(arguments: list[str]) -> None:
    """Run a `choral` command in this process; paths in `examples/` are those of the checkout."""
    from choral.cli import main

    here = [str(ROOT / a) if a.startswith("examples/") else a for a in arguments]
    sys.argv = ["choral", *here]
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    else:
        code = 0
    assert not code, f"exit code {code}"


if __name__ == "__main__":
    sys.path[0] = ""
    try:
        Page(Path(sys.argv[1])).run()
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        sys.exit(1)
