.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PROTO_VENV := .venv-proto
PROTO_STAMP := $(PROTO_VENV)/.stamp
# What mypy and ruff read: all the Python there is in this checkout. mypy can't read the generator of protos, whose
# imports are in an environment of their own.
CODE := $(wildcard reflex_aio tests examples benchmarks)
# Passed to pytest: make test ARGS="tests/sql -k gap -x"; -n 0 for one process, as debuggers need it
ARGS ?=
# How many processes run the tests: one more than there are cores, as each waits for servers a tenth of the time.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup
# The database of make demo: postgres or mariadb
DATABASE ?= postgres
# Tests, demonstration and benchmarks start many a Python, each of which would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  \033[36m%-12s\033[0m %s\n", $$1, $$2}'

.PHONY: venv
venv: $(STAMP) ## create .venv with the package, its extras and the development tools

# Debian packs ensurepip apart from python3: without it, the system's pip installs one into the environment.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$$($(PYTHON) --version) is too old: reflex_aio needs 3.11, try make PYTHON=python3.12" >&2; exit 1; }
	@echo "installing into $(VENV), once: the package, PostgreSQL and the tools of development"
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV) \
	  || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/pip install --quiet --no-compile --group dev \
	  --editable '.[asyncmy,cli,embedded,health,mysql,opentelemetry,prometheus,psycopg,reflection,sqlalchemy]'
	@touch $@

.PHONY: format
format: $(STAMP) ## format the code, and mend what ruff can mend
	$(BIN)/ruff format $(CODE) protos
	$(BIN)/ruff check --fix $(CODE) protos

.PHONY: lint
lint: $(STAMP) ## check format, style and the directions of imports
	$(BIN)/ruff format --check $(CODE) protos
	$(BIN)/ruff check $(CODE) protos
	$(BIN)/lint-imports --no-logo

.PHONY: types
types: $(STAMP) ## check the types
	$(BIN)/mypy $(CODE)

# The generator's own environment: it asks for a newer protobuf than the package does.
$(PROTO_STAMP): protos/requirements.txt | $(STAMP)
	$(BIN)/python -m venv --clear --without-pip $(PROTO_VENV)
	$(BIN)/pip --python $(PROTO_VENV)/bin/python install --quiet -r protos/requirements.txt
	@touch $@

.PHONY: proto
proto: $(PROTO_STAMP) ## generate reflex_aio/pb from protos/
	$(PROTO_VENV)/bin/python protos/generate.py

.PHONY: proto-check
proto-check: $(PROTO_STAMP) ## check that reflex_aio/pb is what protos/ generates
	$(PROTO_VENV)/bin/python protos/generate.py --check

# Further checks add themselves here as prerequisites.
.PHONY: check
check: lint types proto-check ## everything that can be checked without running the code

.PHONY: test
test: $(STAMP) ## run the tests of the library; ARGS go to pytest
	@.ci/servers
	$(PYTEST) -m "not extended" $(ARGS)

.PHONY: test-all
test-all: $(STAMP) ## run all tests: also packaging, other Pythons, benchmarks, demonstrations
	@.ci/servers
	$(PYTEST) --stress-seconds=15 $(ARGS)

# The duration of make soak on each database
MINUTES ?= 30

.PHONY: soak
soak: $(STAMP) ## run processes of every kind under faults on each database for MINUTES=30, and count what went wrong
	@.ci/servers
	@$(BIN)/python -m tests.soak --minutes $(MINUTES) $(ARGS)

.PHONY: mutants
mutants: $(STAMP) ## check by mutation that the tests prove gaps, cursors, leases and the tail; ARGS="leases --sample 20"
	@.ci/servers
	@$(BIN)/python -m venv --clear --without-pip .venv-mutants
	@$(BIN)/pip --python .venv-mutants/bin/python install --quiet cosmic-ray
	@$(BIN)/python -m tests.mutants $(ARGS)

.PHONY: coverage
coverage: $(STAMP) ## run the tests in one process, and print which lines they did not reach
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

.PHONY: demo
demo: $(STAMP) ## run the demonstration; DATABASE=mariadb runs it on MariaDB
	@$(BIN)/python -m examples.demo --database $(DATABASE) $(ARGS)

.PHONY: transcript
transcript: $(STAMP) ## regenerate docs/cli_transcript.md, by running its commands
	@$(BIN)/python -m tests.cli.transcript

.PHONY: bench
bench: $(STAMP) ## measure, as ratios to the raw driver
	@$(BIN)/python -m benchmarks $(ARGS)

# pip-audit has an environment of its own, as it needs other versions of some dependencies.
.PHONY: audit
audit: $(STAMP) ## check the dependencies, at their lower bounds and as installed, for known vulnerabilities
	@$(BIN)/python -m venv --clear --without-pip .venv-audit
	@$(BIN)/pip --python .venv-audit/bin/python install --quiet pip-audit
	@$(BIN)/python -c 'from tests.packaging.test_versions import OLDEST; print(*OLDEST, sep="\n")' >.venv-audit/oldest
	.venv-audit/bin/pip-audit --vulnerability-service osv --disable-pip --no-deps -r .venv-audit/oldest
	.venv-audit/bin/pip-audit --vulnerability-service osv --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

.PHONY: clean
clean: ## remove everything that was made here
	rm -rf $(VENV) $(PROTO_VENV) .venv-audit .venv-mutants build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
