# Two commands do everything from a bare clone: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format chaos clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.installed ## Make .venv with everything that rhocache and its tests need

# Stamped after success only, so that an interrupted set-up starts again.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rhocache needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## See the whole product work on 2,048 real pairs (writes demo/report.html)
	$(BIN)/python -m examples.demo

test: check ## Run the checks and every test
	$(BIN)/python -m pytest

check: setup ## Lint, formatting, types, and the rooms' import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

format: setup ## Format the code and sort its imports
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

KILLS ?= 100
chaos: setup ## Kill scoring jobs at random (KILLS=100) and count what is lost
	$(BIN)/python -m benchmarks.chaos --kills $(KILLS)

clean: ## Remove the environment and what the demo wrote
	rm -rf $(VENV) demo
