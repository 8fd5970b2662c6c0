# Everything a developer repeats; `make` alone lists it. It needs python3 (3.11 or newer) with its venv
# module and headers, and a C++ compiler.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory --no-builtin-rules
.DEFAULT_GOAL := help
# Where this is set, every start of Cordon would compile all of it again.
export PYTHONDONTWRITEBYTECODE :=
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup demo serve test check docs bench bench-detection torture lock clean

PYTHON ?= python3
BIN := .venv/bin
COMPILED := app/hashing/_pixels.c app/matching/_hamming.c
INSTALL := $(BIN)/python -m pip --disable-pip-version-check --no-input install -qq

help:  ## list these tasks
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1 \2/p' Makefile \
	  | while read -r task text; do printf 'make %-15s %s\n' "$$task" "$$text"; done

setup: .venv/.runtime  ## make .venv with the cordon command in it
	@echo "Ready: $(BIN)/cordon"

demo: .venv/.runtime  ## watch pictures and URLs go through a gate, and a report be filed with a stand-in; a state of its own
	@$(BIN)/python -m demo.run

serve: .venv/.runtime  ## run the gate on this machine
	@$(BIN)/cordon serve

test: .venv/.dev  ## prove it: lint, types, import rules, then every test, with coverage
	@scripts/test-tools
	@$(MAKE) check
	@$(BIN)/python -m pytest -n 2 --dist worksteal --cov

check: .venv/.dev  ## lint, formatting, types, import rules; whether the generated reference is current
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/python scripts/reference.py --check

docs: .venv/.dev  ## write docs/reference anew from the code
	@$(BIN)/python scripts/reference.py

bench: .venv/.dev  ## measure speed against the named peers
	@$(BIN)/python -m bench

bench-detection: .venv/.dev  ## count which edits plain PDQ and Cordon see through, in PHOTOS="folder ..." too
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python -m bench.detection $(PHOTOS)

torture: .venv/.dev  ## file reports through 3,000 seeded schedules of kills, faults, races and wrong clocks
	@$(BIN)/python -m tests.filing.torture --schedules $(or $(SCHEDULES),3000)

lock: .venv/.runtime  ## lock the dependencies of pyproject.toml; newest versions with UPGRADE=1
	@scripts/lock $(if $(UPGRADE),--upgrade)

clean:  ## remove what these tasks made; never a state directory
	rm -rf .venv .demo build dist *.egg-info app/*/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*

$(BIN)/python:
	@scripts/preflight "$(PYTHON)"
	@$(PYTHON) -m venv --clear .venv

# Two steps, so that what is built from source is built with locked tools too, not with the newest.
.venv/.runtime: $(BIN)/python requirements-build.lock requirements.lock pyproject.toml setup.py $(COMPILED)
	@echo "Installing the locked dependencies into .venv (a minute or two the first time)"
	@$(INSTALL) --require-hashes --only-binary :all: --requirement requirements-build.lock
	@$(INSTALL) --require-hashes --no-build-isolation --requirement requirements.lock
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev: .venv/.runtime requirements-dev.lock
	@echo "Installing the locked tools for developers into .venv"
	@$(INSTALL) --require-hashes --no-build-isolation --requirement requirements-dev.lock
	@touch $@
