# Everything from a clone that has only Python, make and a package index:
#   make quickstart   install, then watch a model learn to see with a second eye
#   make test         install, then prove that all of it works

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Test processes that run side by side, each with one thread: two fill two cores.
WORKERS ?= 2
PYTEST_ARGS ?=
LOCKED_EXTRAS := --extra video --extra serve --extra timm --extra eval --extra dev

# The stamp's name carries a sum of what was installed: an unchanged lock costs nothing, whatever
# the file times are, and a changed one installs again.
SUM := $(shell cat requirements.lock pyproject.toml | cksum | cut -d ' ' -f 1)
INSTALLED := $(VENV)/installed-$(SUM)

.PHONY: help install quickstart test lint format types contracts bench lock clean

help:
	@echo "make quickstart   install and run the dual-encoder example"
	@echo "make test         install and run all tests (PYTEST_ARGS='-k name' picks some)"
	@echo "make lint         ruff: rules and format      make format     let ruff mend both"
	@echo "make types        mypy                        make contracts  import contracts"
	@echo "make bench        measured ratios             make lock       resolve versions again"
	@echo "make clean        remove the environment and caches"

install: $(INSTALLED)

$(BIN)/uv:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
		echo "chiasm needs Python 3.10 to 3.13, and '$(PYTHON)' was not found."; \
		echo "Name one that is there: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "chiasm needs Python 3.10 to 3.13, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
		echo "Name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(INSTALLED): $(BIN)/uv
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r requirements.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/installed-*
	@touch $@

quickstart: $(INSTALLED)
	$(BIN)/chiasm quickstart dual --output runs/quickstart

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED)
	$(BIN)/mypy

contracts: $(INSTALLED)
	$(BIN)/lint-imports

bench: $(INSTALLED)
	@set -e; for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

# Starts from nothing, so that it also resolves where no environment could be installed.
lock: $(BIN)/uv
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.10 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --upgrade $(LOCKED_EXTRAS) \
		--output-file requirements.lock

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
