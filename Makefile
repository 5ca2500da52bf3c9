# Everything a newcomer or a contributor types. Each target sets itself up from a bare clone.
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The first Python that is new enough; `make PYTHON=/path/to/python3.12 …` overrides the search.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)

.PHONY: help demo test soak lint recordings bench bench-waits bench-replay bench-memory bench-enforcement bench-takeover clean

help:
	@echo "make demo   watch a crew deadlock, the supervisor break it, and the crew finish"
	@echo "make test   everything a change must pass: format, lint, types, import contracts, tests"
	@echo "make soak   the tests that 'make test' leaves out: long faults, many processes, many seeds (minutes)"
	@echo "make bench  ratios: supervised against unsupervised traffic, and time to a broken deadlock"
	@echo "make bench-waits  the wait graph at 100 to 100,000 agents, beside plain graph checks (minutes)"
	@echo "make bench-replay  a recorded run of a million entries, replayed (a minute)"
	@echo "make recordings  record the runs anew that the tests replay (a minute)"
	@echo "make bench-memory  resident memory of the core over ten million events (a minute)"
	@echo "make bench-enforcement  kill, pause, login with 1, 100 and 1,000 agents connected (minutes)"
	@echo "make bench-takeover  kill -9 of a controller to the first decision of the next (minutes)"
	@echo "make lint   the part of 'make test' that runs nothing"
	@echo "make clean  remove what the others made"

$(STAMP): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "error: no Python 3.11 or newer found; install one, or run 'make PYTHON=/path/to/python3 ...'" >&2; exit 1; fi
	@echo "setting up $(VENV) with $(PYTHON) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/supervisor demo

# How many tests run at a time; those of one file run one after another. `make test TESTS_AT_ONCE=0`: no such thing.
TESTS_AT_ONCE ?= 2

test: lint
	@$(BIN)/python -m pytest --numprocesses $(TESTS_AT_ONCE) --dist loadfile

soak: $(STAMP)
	@$(BIN)/python -m pytest -m slow
	@$(BIN)/supervisor chaos run --all scenarios

lint: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(STAMP)
	@$(BIN)/python -m benchmarks

bench-waits: $(STAMP)
	@$(BIN)/python -m benchmarks.wait_graph

bench-replay: $(STAMP)
	@$(BIN)/python -m benchmarks.replay

recordings: $(STAMP)
	@$(BIN)/python tests/support/record_runs.py

bench-memory: $(STAMP)
	@$(BIN)/python -m benchmarks.wait_memory

bench-enforcement: $(STAMP)
	@$(BIN)/python -m benchmarks.enforcement

bench-takeover: $(STAMP)
	@$(BIN)/python -m benchmarks.takeover
	@$(BIN)/python -m benchmarks.long_ledger

clean:
	rm -rf $(VENV) .crewkeeper .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
