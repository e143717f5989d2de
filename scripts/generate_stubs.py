"""Write the Python of the wire from `proto/`; with `--check`, only say which files are stale.

The generator is pinned in `pyproject.toml` to the oldest version whose output Choral supports:
protobuf promises that generated code runs on its own major version and on the next one.
`--baseline` also takes the schema as it is now for the one that later changes must not break: do
that when a version is released, and never to silence `buf breaking`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROTO = ROOT / "proto"
OUTPUT = ROOT / "src/choral/wire/v1"
BASELINE = PROTO / "baseline.binpb"
BIN = Path(sys.executable).parent

HEAD = "# ruff: noqa\n# fmt: off\n"
"""Generated files keep the form that their generator gives them."""
INIT = '"""Generated from `proto/choral/v1` by `scripts/generate_stubs.py`: do not edit."""\n'
_IMPORT = re.compile(r"^from choral\.v1 import ", re.MULTILINE)
_ALIEN = re.compile(r"  # noqa: Y\d+$", re.MULTILINE)
"""Marks for another linter than ours."""


def generate(into: Path) -> dict[str, str]:
    """Return the generated files by name, made in an empty folder."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    command = [
        sys.executable, "-m", "grpc_tools.protoc",
        f"-I{PROTO}", f"-I{files('grpc_tools') / '_proto'}",
        f"--plugin=protoc-gen-mypy={BIN / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={BIN / 'protoc-gen-mypy_grpc'}",
        f"--python_out={into}", f"--grpc_python_out={into}",
        f"--mypy_out={into}", f"--mypy_grpc_out={into}",
        *sources,
    ]  # fmt: skip
    subprocess.run(command, check=True)  # noqa: S603
    made = {"__init__.py": INIT}
    for path in sorted(into.rglob("*.py*")):
        text = path.read_text()
        if path.stem.endswith("_pb2_grpc") and "Stub" not in text:
            continue  # of a file without a service
        text = _IMPORT.sub("from choral.wire.v1 import ", text)
        made[path.name] = HEAD + _ALIEN.sub("", text)
    return made


def stale(made: dict[str, str], folder: Path = OUTPUT) -> list[str]:
    """Return the names of files that are missing, different, or no longer made."""
    held = {p.name: p.read_text() for p in folder.glob("*.py*")} if folder.is_dir() else {}
    return sorted(name for name in held.keys() | made.keys() if held.get(name) != made.get(name))


def main(arguments: list[str]) -> int:
    """Write or check; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        made = generate(Path(folder))
    names = stale(made)
    if "--check" in arguments:
        sys.stdout.write("".join(f"stale: {name}\n" for name in names))
        return bool(names)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name in made:
            (OUTPUT / name).write_text(made[name])
        else:
            (OUTPUT / name).unlink()
    if "--baseline" in arguments:
        buf = [str(BIN / "buf"), "build", str(PROTO), "--exclude-source-info", "-o", str(BASELINE)]
        subprocess.run(buf, check=True)  # noqa: S603
    sys.stdout.write("".join(f"wrote: {name}\n" for name in names))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
