# `make demo` and `make test` do all the set-up themselves, once.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# uv does not read pip's settings; these are the ones that decide what is found. Where nothing is set, the CPU
# build of torch is asked for by uv's own means.
export UV_FIND_LINKS ?= $(shell echo "$${PIP_FIND_LINKS:-}" | tr ' ' ',')
ifeq ($(strip $(PIP_FIND_LINKS)),)
export UV_TORCH_BACKEND ?= cpu
endif
ifneq ($(strip $(PIP_INDEX_URL)),)
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
UV := $(BIN)/uv

.PHONY: help
help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

$(BIN)/uv:
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v[:2] in ((3, 11), (3, 12)) else
	"corral: Python 3.11 or 3.12 is needed, $(PYTHON) is %d.%d; say which with make PYTHON=..." % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check uv

# Nothing is resolved: the lock is the whole set. Compiled once here, or every process compiles vLLM again.
$(VENV)/.cpu: cpu.lock pyproject.toml | $(BIN)/uv
	@began=$$(date +%s)
	$(UV) pip install -q --python $(BIN)/python --no-deps --compile-bytecode -r cpu.lock
	$(UV) pip install -q --python $(BIN)/python --no-deps -e .
	$(BIN)/python -m compileall -q app deployments slurm rag loadtests
	echo "set-up took $$(( $$(date +%s) - began )) s"
	touch $@

$(VENV)/.dev: dev.lock $(VENV)/.cpu
	$(UV) pip install -q --python $(BIN)/python --no-deps --compile-bytecode -r dev.lock
	touch $@

.PHONY: setup
setup: $(VENV)/.cpu ## install what `corral` needs on a CPU, once

.PHONY: demo
demo: $(VENV)/.cpu ## start four Llamas, ask two of them, one bulk call and a small handbook, end it all
	$(BIN)/corral demo

.PHONY: serve
serve: $(VENV)/.cpu ## start four Llamas and keep them up; `.venv/bin/corral down` ends them
	$(BIN)/corral up

.PHONY: check
check: $(VENV)/.dev ## lint, types, import contracts, README
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/docs

.PHONY: test
test: $(VENV)/.dev ## unit tests, the real thing on one Ray and in a browser, then on a real SLURM (root on Debian)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/unit
	$(BIN)/python -m pytest -q tests/edge
	$(BIN)/python -m pytest -q tests/serve
	$(BIN)/python -m pytest -q tests/browser
	$(BIN)/python -m pytest -q tests/slurm

.PHONY: bench
bench: $(VENV)/.dev ## Corral beside vLLM's own server, and with PLAIN=1 beside Ray Serve's build_openai_app
	$(BIN)/python -m loadtests.against_vllm $(if $(PLAIN),--plain)

.PHONY: slurm-cluster
slurm-cluster: $(VENV)/.dev ## keep a real SLURM of three nodes up to play with, until Ctrl-C (root on Debian)
	@$(BIN)/python -m tests.slurm.cluster

.PHONY: lock
lock: $(BIN)/uv ## resolve pyproject.toml anew into cpu.lock and dev.lock
	$(UV) pip compile -q --python-version 3.11 --no-annotate --no-header --no-emit-package corral \
		--extra cpu --extra load pyproject.toml | sed 's/^\(torch==[0-9.]*\)+cpu/\1/' > cpu.lock
	$(UV) pip compile -q --python-version 3.11 --no-annotate --no-header -c cpu.lock \
		--extra cpu --extra load --extra dev pyproject.toml | sed 's/^\(torch==[0-9.]*\)+cpu/\1/' > dev.lock
