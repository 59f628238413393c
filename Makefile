# Airworthy: `make run` is the main job, `make test` proves it. Both create what they need first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
export AIRWORTHY_HOME ?= $(CURDIR)/.airworthy
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
BOOTSTRAP := $(AIRWORTHY_HOME)/bootstrap
export PATH := $(PATH):$(BOOTSTRAP)/bin
ENGINE := $(AIRWORTHY_HOME)/envs/engine
AIRWORTHY := $(ENGINE)/bin/python -m airworthy
# Quick ones first, whole releases last.
TESTS := $(addprefix tests/,unit components pipelines local cluster faults gpu e2e)
# Environments are hash-checked against these files (see "Dependencies" in CONTRIBUTING.md).
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
GROUPS_LOCKED := data training training-gpu serving release monitoring

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

run: engine ## The whole story on real flights: a first release, then a retrained challenger and its canary
	@$(AIRWORTHY) demo story

test: dev ## All tests (lints are in `make check`)
	@.venv/bin/python -m pytest $(TESTS) --ignore tests/unit/validation
	@$(MAKE) --no-print-directory test-validation

test-validation: uv ## Tests of the data validation room, in its own environment
	@$(PYTHON) -m airworthy.local.environments validation-test
	@$(AIRWORTHY_HOME)/envs/validation-test/bin/python -m pytest tests/unit/validation -p no:cacheprovider

check: dev ## Format, lint and types
	@.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy

compile: dev ## Compile the pipelines into pipelines/compiled
	@.venv/bin/python -m pipelines.compile

bench: dev engine ## Benchmarks; prints the tables of benchmarks/README.md
	@.venv/bin/python -m benchmarks

bench-gpu: dev ## Training on GPU against CPU (needs an NVIDIA GPU)
	@.venv/bin/python -m benchmarks.gpu

sbom: engine ## What every image contains (CycloneDX), from the lock files, into dist/sbom
	@$(AIRWORTHY) sbom --out dist/sbom

lock: uv ## Renew requirements/*.txt from pyproject.toml
	@$(LOCK) --group dev -o requirements/dev.txt
	@$(LOCK) -c requirements/dev.txt --no-deps --group executor -o requirements/executor.txt
	@for group in $(GROUPS_LOCKED); do \
	  $(LOCK) -c requirements/dev.txt --group $$group -o requirements/$$group.txt; done
	@$(LOCK) -c requirements/dev.txt pyproject.toml -o requirements/engine.txt
	@$(LOCK) --group mlserver -o requirements/mlserver.txt
	@$(LOCK) --group validation-test -o requirements/validation-test.txt
	@$(LOCK) -c requirements/validation-test.txt --group validation -o requirements/validation.txt

engine: uv
	@$(PYTHON) -m airworthy.local.environments engine

dev: uv
	@if ! cmp -s requirements/dev.txt .venv/lock.txt; then \
	  echo "Creating the contributor environment .venv …"; \
	  uv venv --quiet --clear --python $(PYTHON) .venv; \
	  uv pip sync --quiet --require-hashes --python .venv/bin/python requirements/dev.txt; \
	  echo "$(CURDIR)" > .venv/lib/python3.11/site-packages/airworthy.pth; \
	  cp requirements/dev.txt .venv/lock.txt; fi

uv:
	@if ! command -v uv >/dev/null; then \
	  echo "Fetching uv (it creates the environments) into $(BOOTSTRAP) …"; \
	  $(PYTHON) -m venv $(BOOTSTRAP); \
	  $(BOOTSTRAP)/bin/pip install --quiet --require-hashes -r requirements/bootstrap.txt; fi

clean: ## Remove environments and caches; keeps the registry, the served models and the runs
	@rm -rf .venv $(AIRWORTHY_HOME)/envs $(AIRWORTHY_HOME)/cache $(BOOTSTRAP) .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: help run test test-validation check compile bench bench-gpu sbom lock engine dev uv clean
