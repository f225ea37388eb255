# Two commands: `make run` and `make test`. Both set everything up first.

# The first Python that works (a version manager's stub may not) and is new enough.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
PORT   ?= 8001
SEED   ?= 1
SAMPLE ?= 20
TESTS  ?= tests
# Tests wait as much as they compute, so that two processes are faster. The tests of a file stay in
# one process: they share servers.
WORKERS ?= 2
SIDE_BY_SIDE := $(if $(filter-out 0,$(WORKERS)),--numprocesses $(WORKERS) --dist loadfile \
	--no-loadscope-reorder)

.PHONY: help run test test-only lint format typecheck docs pictures loadtest bench bench-bodies \
	bench-live normal-use mutants gameday release clean
help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | column -t -s '	'

# Stamps: a second run does not repeat the set-up.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { \
		echo "Python 3.11 or later is needed: install it, or set PYTHON=/path/to/python3.11" >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.made setup.cfg constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.made setup.cfg constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.mutants: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutants]'
	@touch $@

run: $(VENV)/.runtime ## set up and serve on :8001 with the embedded provider
	@echo "The page: http://127.0.0.1:$(PORT)/ (Ctrl-C stops the server)"
	@GOBLIN_ENV=development exec $(BIN)/goblin-assistant serve --port $(PORT)

test: lint typecheck test-only ## set up, run every check and test; WORKERS=0: in one process

test-only: $(VENV)/.dev ## the tests only; VENV=.make/newest PYTHON=python3.13: on another Python
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(FLAGS) $(TESTS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev ## regenerate .env.example and the tables of settings and layers
	$(BIN)/goblin-assistant config --env-example > .env.example
	$(BIN)/python -m goblin_assistant.config.docs docs/configuration.md
	$(BIN)/python -m tests.support.layers docs/architecture.md

pictures: $(VENV)/.dev ## a picture of each view of the page into docs/images; needs Chromium
	$(BIN)/python -m tests.page.pictures docs/images

loadtest: $(VENV)/.dev ## start a server, load-test it and print the verdict on the guide's targets
	$(BIN)/python -m loadtest.run

gameday: $(VENV)/.dev ## play faults on three instances behind nginx; writes .make/gameday
	$(BIN)/python -m gameday

bench: $(VENV)/.dev ## compare with a bare server and LiteLLM; writes docs/performance.md
	$(BIN)/python -m benchmarks.run

bench-live: $(VENV)/.dev ## ask /health/live all the time under attack; writes its section
	$(BIN)/python -m benchmarks.always_answering

bench-bodies: $(VENV)/.dev ## CPU and memory of nasty bodies; its section of docs/performance.md
	$(BIN)/python -m benchmarks.nasty_bodies

normal-use: $(VENV)/.dev ## ten minutes of load and a restart under the real alerts: none may fire
	$(BIN)/python -m tests.ops.normal_use

mutants: $(VENV)/.mutants ## change core modules at random: do their tests notice? SEED=, MODULES=
	$(BIN)/python -m tests.support.mutants --seed $(SEED) --sample $(SAMPLE) $(MODULES)

release: $(VENV)/.dev ## wheel, sdist, requirements with hashes, SBOM and CHECKSUMS in dist/
	$(BIN)/python ops/release.py dist

clean: ## remove the environment and build output
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
