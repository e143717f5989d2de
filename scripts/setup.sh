#!/usr/bin/env bash
# Makes .venv with Choral, its extras and the tools for contributors. Usage: setup.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
# Tests and demo start many processes: compiled once here, not by each of them.
.venv/bin/uv pip install --quiet --compile-bytecode --constraint constraints.txt --editable '.[torch,sklearn,parquet,onnx,postgres,s3,dp,dev,docs]'
