# Two commands for a newcomer: make demo, make test.  Nothing is needed but Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

.PHONY: help setup demo test test-quick check bench clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[track,dev]'
	touch $@

setup: $(STAMP)  ## make .venv with the package and its pinned dependencies

demo: $(STAMP)  ## train the default models and write one page
	$(BIN)/fromnoise demo

test: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest -n 2

test-quick: $(STAMP)  ## the suite without the tests that train for long
	$(BIN)/python -m pytest -n 2 -m "not long"

check: $(STAMP)  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/pyright

bench: $(STAMP)  ## ratios against bare torch, measured side by side
	$(BIN)/python benchmarks/bench.py

clean:  ## remove the environment and caches, keep runs
	rm -rf $(VENV) .pytest_cache .ruff_cache
