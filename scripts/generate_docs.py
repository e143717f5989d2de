"""Write the generated parts of the documentation; with `--check`, only say which are stale.

A page says where a part goes by two comments, `<!-- generated: NAME -->` and `<!-- end -->`. What
is between them is replaced. Everything around them is written by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import diagrams
import reference
import secagg_machines as secagg

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

PARTS: Mapping[str, Callable[[], str]] = {
    "commands": reference.commands,
    "crash-matrix": reference.crash_matrix,
    "error-table": reference.error_table,
    "error-tree": reference.error_tree,
    "failpoints": reference.failpoints,
    "federation-keys": reference.federation_keys,
    "named-parts": reference.named_parts,
    "python-api": reference.python_api,
    "python-data": reference.python_data,
    "python-parts": reference.python_parts,
    "round-table": lambda: diagrams.table(_round()),
    "run-table": lambda: diagrams.table(_run()),
    "secagg-client-table": lambda: diagrams.table(_client()),
    "secagg-server-table": lambda: diagrams.table(_server()),
    "secagg-sizes": lambda: secagg.sizes((4, 10, 20)),
    "unbuilt-commands": reference.unbuilt_commands,
}
"""Name of a part to what writes it."""

FILES: Mapping[str, Callable[[], str]] = {
    "concepts/round.svg": lambda: diagrams.svg(_round(), "One attempt at a round"),
    "concepts/run.svg": lambda: diagrams.svg(_run(), "A run"),
    "concepts/secagg-client.svg": lambda: diagrams.svg(_client(), "A client in one attempt"),
    "concepts/secagg-server.svg": lambda: diagrams.svg(
        _server(), "The coordinator in one attempt", open_phases="open phase"
    ),
    "concepts/secagg-steps.svg": lambda: secagg.sequence("Messages of one attempt"),
}
"""File below `docs/` to what writes it."""

_MARKED = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

_round = cache(diagrams.round_machine)
_run = cache(diagrams.run_machine)
_client = cache(secagg.client_machine)
_server = cache(secagg.server_machine)


def expected() -> dict[Path, str]:
    """Return what every page or file with a generated part should hold."""
    found = {DOCS / name: write() for name, write in FILES.items()}
    used = set()
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        names = [m.group(2) for m in _MARKED.finditer(text)]
        used.update(names)
        if names:
            found[page] = _MARKED.sub(
                lambda m: f"{m.group(1)}\n{PARTS[m.group(2)]()}\n{m.group(3)}", text
            )
    unused = sorted(PARTS.keys() - used)
    if unused:
        raise SystemExit(f"parts that no page asks for: {', '.join(unused)}")
    return found


def main() -> int:
    """Write or check; return the exit code."""
    stale = [
        (path, text)
        for path, text in expected().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    check = "--check" in sys.argv[1:]
    for path, text in stale:
        sys.stdout.write(f"{'stale' if check else 'wrote'} {path.relative_to(ROOT)}\n")
        if not check:
            path.write_text(text, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
