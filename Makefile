# `make demo` and `make test` set up everything they need; the other targets are for contributors.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.choral-setup
# uv does not read pip's settings; this lets it see wheels that pip is told about.
export UV_FIND_LINKS := $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS))
WORKERS ?= 2
# The suite starts hundreds of processes; each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test nightly check docs format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	scripts/setup.sh "$(PYTHON)"
	touch $@

demo: setup
	$(BIN)/choral demo

test: setup
	scripts/debian.sh
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not nightly"

nightly: setup
	scripts/debian.sh
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/docker/*.Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose/docker-compose.yml
	$(BIN)/shellcheck .ci/run scripts/*.sh deploy/compose/*.sh

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python scripts/generate_docs.py

docs: setup
	$(BIN)/zensical build --clean --strict

clean:
	rm -rf .venv build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
