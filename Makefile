# Two commands for a newcomer: make demo, make test.  Nothing is needed but Python 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= auto
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
CORE := $(VENV)/.fromnoise-core
DEV := $(VENV)/.fromnoise-dev

.PHONY: help setup demo test test-quick check bench docs clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(CORE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "fromnoise needs Python 3.11 or newer; name one with: make PYTHON=python3.11"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "Installing fromnoise into $(VENV) (the first time this takes a minute or more)"
	@$(PIP) -e .
	@touch $@

$(DEV): $(CORE)
	@echo "Installing what tests and checks need into $(VENV)"
	@$(PIP) -e '.[track,features,dev]'
	@touch $@

setup: $(DEV)  ## make .venv with the package, its pinned dependencies and the tools to work on it

demo: $(CORE)  ## train the default models and write one page
	$(BIN)/fromnoise demo

test: $(DEV)  ## the whole test suite
	$(BIN)/python -m pytest -n $(JOBS) --maxprocesses 8 --dist worksteal

test-quick: $(DEV)  ## the suite without the tests that train for long
	$(BIN)/python -m pytest -n $(JOBS) --maxprocesses 8 --dist worksteal -m "not long"

check: $(DEV)  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(CORE)  ## ratios against bare torch, measured side by side
	$(BIN)/python benchmarks/bench.py

docs: $(DEV)  ## check that the links, commands and code in the documents are right
	$(BIN)/python -m pytest tests/test_docs.py

clean:  ## remove the environment and caches, keep runs
	rm -rf $(VENV) .pytest_cache .ruff_cache
