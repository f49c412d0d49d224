# Everything a person or a machine does with this checkout. `make` alone prints the list.
# Set-up is part of each target: a fresh machine needs Python 3.11 or newer, make and git, nothing else.

PYTHON ?= python3
JOBS ?= 2
ARGS ?=
STORE ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest -n $(JOBS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'ARGS="…" is passed on by demo, test and bench; PYTHON=python3.13 picks the interpreter for a new .venv.'

## the main things -----------------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(READY)  ## run `relight demo`: a census of real files that survives kill -9 (STORE=postgresql: there)
	@$(if $(filter postgresql,$(STORE)),$(BIN)/python -m tests.demo_on_postgresql,$(BIN)/relight demo) $(ARGS)

.PHONY: test
test: $(READY)  ## run every test
	@$(PYTEST) $(ARGS)

.PHONY: test-postgresql
test-postgresql: $(READY)  ## run the tests of whole jobs on PostgreSQL: the system's server, else the one of a wheel
	@RELIGHT_TEST_STORE=postgresql $(PYTEST) -m "not slow" tests/flow $(ARGS)

.PHONY: model
model: $(READY)  ## drive the store and a naive model with 2,000 scripts of 50 steps: some six minutes
	@RELIGHT_TEST_PROFILE=thorough $(BIN)/python -m pytest tests/model $(ARGS)

.PHONY: scenarios
scenarios: $(READY)  ## crash each scenario of the table at every durable boundary: some six minutes
	@RELIGHT_TEST_PROFILE=thorough $(PYTEST) tests/scenarios $(ARGS)

.PHONY: kill
kill: $(READY)  ## kill the standard scenario at every durable boundary, then recovery itself at each of its own
	@$(BIN)/python tests/killing/everywhere.py --nested $(ARGS)

# Where CI is set, `make test` follows, which runs the short tests, too.
.PHONY: check
check: format-check lint types layers sizes $(if $(CI),,test-short)  ## check everything: format, lint, types, layers, sizes, short tests

.PHONY: bench
bench: $(READY)  ## measure: python -m bench
	@$(BIN)/python -m bench $(ARGS)

## parts of check ------------------------------------------------------------------------------------------------------

.PHONY: format-check
format-check: $(READY)  ## is every file formatted?
	@$(BIN)/ruff format --quiet --diff .

.PHONY: lint
lint: $(READY)  ## ruff
	@$(BIN)/ruff check --quiet .

.PHONY: types
types: $(READY)  ## mypy --strict over src and tests/typing
	@$(BIN)/mypy --no-error-summary

.PHONY: layers
layers: $(READY)  ## import-linter: arrows only downward, core stays pure
	@$(BIN)/lint-imports --no-logo

.PHONY: sizes
sizes: $(READY)  ## list long functions and files (tests/style fails on those past the end)
	@$(BIN)/python tests/style/offenders.py

.PHONY: test-short
test-short: $(READY)  ## run the tests that are not marked slow
	@$(PYTEST) -m "not slow" $(ARGS)

## helpers -------------------------------------------------------------------------------------------------------------

.PHONY: format
format: $(READY)  ## format every file and mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

.PHONY: lock
lock: $(READY)  ## write requirements/dev.txt anew (UPGRADE=1: with the newest versions)
	@$(BIN)/uv pip compile pyproject.toml requirements/dev.in --quiet $(if $(UPGRADE),--upgrade) \
		--universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" \
		--output-file requirements/dev.txt

.PHONY: setup
setup: $(READY)  ## only make .venv, with everything pinned and hashed
	@:

.PHONY: clean
clean:  ## remove .venv, caches and build products
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find src tests bench examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# What the system's package manager has to bring. Debian splits ensurepip from python3; only root can add it.
.PHONY: system
system:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Relight needs Python 3.11 or newer; name one: make PYTHON=python3.12 …' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
			|| { echo 'This Python has no venv; install it (Debian: apt-get install python3-venv).' >&2; exit 1; }; \
		apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y python3-venv >/dev/null; }

# The stamp is newer than what it was made from. Nothing is fetched that has no hash: the editable install uses the
# build backend that dev.txt has just brought.
$(READY): pyproject.toml requirements/dev.txt
	@$(MAKE) --no-print-directory system
	@echo 'setting up $(VENV) …'
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes --requirement requirements/dev.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .
	@touch $@
