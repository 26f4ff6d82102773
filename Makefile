# `make demo` and `make test` set up everything they need in .venv from the lock file.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
S3 := .venv-s3
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export HF_HUB_OFFLINE := 1
export OMP_NUM_THREADS := 1

.PHONY: help setup demo cluster cluster-down servers test test-long check lint types lock bench clean

help:
	@echo "make demo   simulate a small sky, build hsc x sdss x gaia, write a page with pictures"
	@echo "make cluster       PostgreSQL, Prefect, Dask and S3 on this machine, and a scheduled build; cluster-down ends them"
	@echo "make test   unit, property, real-data and reader-conformance tests"
	@echo "make test-long  faults that take minutes, and make cluster from start to end"
	@echo "make check  lint and types"
	@echo "make bench  the measurements of bench/, an hour, most of it other libraries'"
	@echo "make lock   renew requirements.lock"

$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

setup: $(VENV)/ready

demo: setup
	$(BIN)/mmu demo --folder demo --cluster local:2

# Swift has an environment of its own: nothing of ours imports it.
$(S3)/ready: flows/loopback/requirements.txt
	$(PYTHON) -m venv $(S3)
	$(S3)/bin/python -m pip install --quiet -r $<
	@touch $@

# PostgreSQL and memcached are Debian packages; installing them wants root, once.
servers:
	@{ ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null; } && command -v memcached >/dev/null \
	  || (apt-get update -qq && apt-get install -qq -y --no-install-recommends postgresql memcached)

cluster: setup $(S3)/ready servers
	$(BIN)/python -m flows.loopback up --folder cluster --s3-programs $(S3)/bin

cluster-down: setup
	$(BIN)/python -m flows.loopback down --folder cluster

test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

test-long: setup $(S3)/ready
	@$(MAKE) --no-print-directory servers || echo "PostgreSQL and memcached cannot be installed: the tests of make cluster are skipped"
	@ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || { apt-get update -qq && apt-get install -qq -y libfaketime; } \
	  || echo "libfaketime cannot be installed: the test of clocks that disagree is skipped"
	$(BIN)/python -m pytest -m long -o faulthandler_timeout=1500 $(PYTEST_ARGS)

check: lint types

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

bench: setup
	for name in shards orchestration match reading loading reshard index tables fetch; do $(BIN)/python -m bench.$$name || echo "$$name: a goal is missed"; done

lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade pip
	.venv-lock/bin/python -m pip install --quiet ".[test,dev]"
	.venv-lock/bin/python -m pip freeze --exclude mmu-pipeline | sed 's/+cpu$$//' > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) demo runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
