# Two commands do everything from a bare clone: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEER := .venv-clip-retrieval
LOWEST := .venv-lowest
TOOLS := .venv-release

.DEFAULT_GOAL := help
# Hundreds of processes import what is installed here: it is compiled once.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help setup demo test browser promtool check coverage lowest dist dist-check sbom licences audit client openapi settings compose-test secrets dashboard format chaos benchmark experiments results gpu-check architectures clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 11

setup: $(VENV)/.installed ## Make .venv with everything that rhocache and its tests need

# Stamped after success only, so that an interrupted set-up starts again.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rhocache needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## See the whole product work on 2,048 real pairs (writes demo/report.html)
	$(BIN)/python -m examples.demo

# Each worker has a Ray of its own; three keep two cores busy, as tests also wait. Files keep the
# order of tests/conftest.py.
WORKERS ?= 3
SUITE = -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
test: check browser promtool $(TOOLS)/.installed ## Run the checks and every test (WORKERS=3)
	$(BIN)/python $(SUITE)

# A browser of the system's, or playwright's own, or, where that can't be had, Debian's.
browser: setup
	@command -v chromium google-chrome > /dev/null || $(BIN)/playwright install chromium \
		|| { apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends chromium; }

# The system's, or out of Debian's package, which is not installed: it would start a server.
promtool: setup
	@command -v promtool > /dev/null || test -x $(BIN)/promtool || { apt-get update --quiet \
		&& folder=$$(mktemp -d) && (cd $$folder && apt-get download --quiet prometheus && dpkg -x *.deb .) \
		&& mv $$folder/usr/bin/promtool $(BIN) && rm -r $$folder; } \
		|| echo "promtool can't be had: Prometheus' rules are not tested"

check: setup ## Lint, formatting, types, the rooms' import rules, dependencies, dead code, the client
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry .
	$(BIN)/vulture
	$(BIN)/python client/generate.py --check

coverage: setup ## Run every test and tell which lines and branches none has run (coverage/index.html)
	$(BIN)/coverage run $(SUITE)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet --directory coverage
	$(BIN)/coverage report --skip-covered

# Of what rhocache needs itself; what that needs is as new as it may be, and deprecates some of it.
lowest: $(LOWEST)/.installed ## Run the tests with the lowest versions that pyproject.toml promises (TESTS=tests)
	$(LOWEST)/bin/python -m pytest -W ignore::DeprecationWarning $(TESTS)

TESTS ?= tests
$(LOWEST)/.installed: pyproject.toml tests/lowest.py
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python tests/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/constraints.txt --editable '.[dev]'
	@touch $@

# What is built of a commit has its time in it, and so the same bytes wherever it is built.
dist sbom: export SOURCE_DATE_EPOCH = $(shell git log -1 --format=%ct)
dist: setup ## Build the sdist, and of it the wheel, into dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation

dist-check: sbom ## Install the wheel in an empty environment for each extra, and use it
	$(BIN)/python -m pytest -m by_hand -s tests/release/test_installed.py

sbom: dist $(TOOLS)/.installed ## Write what is installed with each extra as CycloneDX, beside the wheel
	$(BIN)/python -m release.sbom $(TOOLS)/bin/cyclonedx-py

licences: sbom ## Write docs/licences.md anew, and refuse a licence that release/licences.toml does not list
	$(BIN)/python -m release.licences

audit: sbom ## Look known vulnerabilities up; release/audit.toml explains those that do not matter
	$(BIN)/python -m release.audit $(TOOLS)/bin/pip-audit

# Apart, as they bring what rhocache does not need.
$(TOOLS)/.installed: release/requirements.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check --requirement release/requirements.txt
	@touch $@

client: setup ## Write the synchronous client anew, from the asynchronous one
	$(BIN)/python client/generate.py

openapi: setup ## Write docs/openapi.json anew
	$(BIN)/python -m rhocache_service.openapi_document > docs/openapi.json

settings: setup ## Write docs/settings.md anew
	$(BIN)/python -m rhocache_service.settings_document > docs/settings.md

format: setup ## Format the code and sort its imports
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

KILLS ?= 100
chaos: setup ## Kill scoring jobs at random (KILLS=100) and count what is lost
	$(BIN)/python -m benchmarks.chaos --kills $(KILLS)

benchmark: setup $(PEER)/.installed ## Compare encoding with its peers (BENCHMARK='--rounds 3 --data DIR')
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[benchmarks]'
	$(BIN)/python -m benchmarks.encode --clip-retrieval $(PEER)/bin/clip-retrieval $(BENCHMARK)

# clip-retrieval wants an old numpy, and setuptools that still have pkg_resources.
$(PEER)/.installed:
	$(PYTHON) -m venv $(PEER)
	grep -E '^(torch|torchvision)==' constraints.txt > $(PEER)/constraints.txt
	$(PEER)/bin/pip install --quiet --disable-pip-version-check --constraint $(PEER)/constraints.txt clip-retrieval==2.45.0 'open_clip_torch<3' torchvision
	$(PEER)/bin/pip install --quiet --disable-pip-version-check 'setuptools<70'
	@touch $@

gpu-check: setup ## Check exactness and speed on this machine's GPU
	$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "torch finds no GPU on this machine")'
	$(BIN)/python -m pytest tests/workers/test_cuda.py tests/workers/encode/test_batches.py tests/workers/run/test_driver.py
	$(BIN)/python -m pytest tests/trainer/test_cuda.py tests/trainer/risk/test_common.py
	$(BIN)/python -m benchmarks.loss --device cuda --batch 8192
	$(MAKE) benchmark

# COMPOSE=podman-compose does as well. STANDINS=1, where no image can be pulled: of packages.
compose-test: setup ## Build the images, run docker-compose.yml and kill its parts (COMPOSE='docker compose')
	$(BIN)/python -m pytest -m by_hand -s tests/deploy/test_compose.py

secrets: ## Make the secrets of docker-compose.yml
	$(PYTHON) deploy/make_secrets.py

dashboard: setup ## Write Grafana's dashboard anew
	$(BIN)/python deploy/grafana/dashboard.py

architectures: setup ## Compare a model of every family that open_clip lists with open_clip's own; writes docs/architectures.md
	$(BIN)/python -m pytest -m by_hand tests/workers/reference/test_architectures.py

WORK ?= runs/experiments
experiments: setup ## Do what is missing of all experiments (DATA=icons, WORK=folder for caches and runs)
	$(BIN)/python -m experiments run $(basename $(notdir $(wildcard experiments/studies/*.yaml))) --work $(WORK) --data '$(DATA)'

results: setup ## Write docs/results anew from the experiments' outcomes
	$(BIN)/python -m experiments pages

clean: ## Remove the environment and what the demo wrote
	rm -rf $(VENV) $(PEER) $(LOWEST) $(TOOLS) demo dist
