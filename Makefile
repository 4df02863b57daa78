# Everything a developer or a CI machine runs. `make help` lists it.
# Needs: make, bash, and Python 3.11 or newer with its venv module.

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-all
RUNNABLE := $(VENV)/.ready-run
# Empty: the newest of python3.13, python3.12, python3.11, python3 that is at least 3.11.
PYTHON ?=
# Where `make run` listens.
HOST = 127.0.0.1
PORT ?= 30000
# More words for pytest, as in `make test ARGS="tests/unit -k splice"`; for bench and run likewise.
ARGS =

help: ## list the targets
	@echo "make TARGET, where TARGET is one of:"
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make the environment in .venv from requirements.lock

$(READY): requirements.lock pyproject.toml deploy/local/venv.sh
	@deploy/local/venv.sh "$(VENV)" all $(PYTHON)

$(RUNNABLE): requirements-run.lock pyproject.toml deploy/local/venv.sh
	@deploy/local/venv.sh "$(VENV)" run $(PYTHON)

ifneq ($(PYTHON),)
# An environment may be ready, but with another Python than the one asked for.
$(READY) $(RUNNABLE): ask-again
endif

run: $(RUNNABLE) ## start etcd, two simulated prefills and decodes, and the proxy on :30000 (PORT=, HOST=)
	@exec $(BIN)/python -m deploy.local.run --host $(HOST) --port $(PORT) $(ARGS)

test: $(READY) ## run all the tests but the long ones
	@exec $(BIN)/python -m pytest -m "not long" $(ARGS)

test-e2e: $(READY) ## run the long tests: real clients at 512 at once, minutes without etcd, chaos
	@exec $(BIN)/python -m pytest -m long $(ARGS)

test-sglang: $(READY) ## run the tests against a real SGLang pair on a CPU, installing it first (3 GB)
	@tests/real/run.sh $(BIN)/python $(ARGS)

test-slurm: $(READY) ## run the Slurm job on a real Slurm of five nodes in namespaces (root, slurm-wlm, munge)
	@exec $(BIN)/python -m pytest -m long tests/slurm $(ARGS)

test-alerts: $(READY) ## fire every alert by a real fault, in a real Prometheus (apt-get install prometheus)
	@exec $(BIN)/python -m pytest -m long tests/alerts $(ARGS)

test-images: $(READY) ## build the images on stand-ins of their bases, and run them (as root; buildah, mmdebstrap, crun)
	@exec $(BIN)/python -m pytest -m long tests/images $(ARGS)

chaos: $(READY) ## random faults, again with CHAOS_SEED=n; CHAOS_SEEDS= how many, CHAOS_SECONDS= how long each
	@exec $(BIN)/python -m pytest -m long tests/chaos -s $(ARGS)

check: $(READY) ## lint, formatting, types, the direction of imports; scripts and the Dockerfile
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy -p proxy -p workers -p bench -p deploy.local -p deploy.slurm.benchmark -p deploy.images -p deploy.slurm.job -p deploy.grafana
	$(BIN)/lint-imports --no-cache
	$(BIN)/shellcheck .ci/run $$(find deploy tests -name .cache -prune -o \( -name '*.sh' -o -name '*.slurm' \) -print)
	$(BIN)/hadolint Dockerfile

format: $(READY) ## format the code, and mend what the linter can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(READY) ## measure the proxy beside sglang-router, on the same stub engines
	@exec $(BIN)/python -m bench $(ARGS)

bench-failures: $(READY) ## 1,024 streams while 5 % of the transfers fail, beside sglang-router and mini_lb
	@exec $(BIN)/python -m bench.failures $(ARGS)

lock: ## write the lock files anew from pyproject.toml, keeping their pins (ARGS=--upgrade to move them)
	@deploy/local/lock.sh $(ARGS)

clean: ## remove the environment, caches and build results
	rm -rf "$(VENV)" build dist bench/build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find proxy workers bench deploy tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

.PHONY: ask-again help setup run test test-e2e test-sglang test-images test-slurm test-alerts chaos check format bench bench-failures lock clean
