# Everything a newcomer needs: `make quickstart`, `make test-fast`, `make test`, `make tables`, `make ui`.
PYTHON ?= python3
BIN := .venv/bin
GRIDS := $(sort $(wildcard grids/table*.yaml))
PROFILE ?= digits
SEEDS ?=
# Test files that run in parallel.
AT_A_TIME ?= 2
SEED_FLAG := $(if $(SEEDS),--seeds $(SEEDS))
PYTEST = $(BIN)/python -m pytest -n $(AT_A_TIME) --dist loadfile --no-loadscope-reorder --durations=10

.PHONY: quickstart test-fast test test-all test-cluster test-faults lint types contracts unit check-report tables bench docs \
	docs-notebook ui format clean

# Runtime and test packages are installed separately, so that the quickstart installs only what it needs.
.venv/.runtime: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.test: .venv/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

.venv/.bench: .venv/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	touch $@

.venv/.docs: .venv/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

quickstart: .venv/.runtime
	$(BIN)/pld-grid run grids/table07.yaml --profile digits --report reports/quickstart --show
	@echo
	@echo "The report: reports/quickstart/index.html   The runs in MLflow: make ui"

# While working: a minute and a half on two cores.
test-fast: .venv/.test
	$(PYTEST) -m "not (ray or faults or slow)"

# Before a commit: everything that needs neither a cluster nor faults.
test: lint types contracts docs check-report unit

# What CI runs.
test-all: test docs-notebook test-cluster test-faults

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.test
	$(BIN)/mypy

contracts: .venv/.test
	$(BIN)/lint-imports

# The committed report matches its own records.
check-report: .venv/.runtime
	$(BIN)/pld-grid report --check --out reports/digits

unit: .venv/.test
	$(PYTEST) -m "not (ray or faults)"

# Complete runs on real Ray, also on clusters, with real MLflow servers and PostgreSQL, whose programs are needed (Debian:
# apt-get install postgresql); everything listens on loopback.
test-cluster: .venv/.test
	$(PYTEST) -m "ray and not faults"

# Bad input, kills, full disks, lost servers, damaged files, two drivers on one store; needs PostgreSQL's programs, and
# root for small disks (tests skip themselves without, unless PLD_GRID_NO_SKIPS=1).
# PLD_GRID_FAULT_SEED=N chooses other moments.
# Three in parallel on two cores, because these tests often wait, for example for a lease to expire.
test-faults: AT_A_TIME := 3
test-faults: .venv/.test
	$(PYTEST) -m faults

# The site, in build/site; a dead link or a missing heading is an error.
docs: .venv/.docs
	$(BIN)/mkdocs build --strict --quiet

# Runs the documentation's notebook and keeps a copy with its outputs; about a minute.
docs-notebook: .venv/.docs
	mkdir -p build
	$(BIN)/jupyter-execute docs/notebook.ipynb --output=../build/notebook

tables: .venv/.runtime
	$(BIN)/pld-grid run $(GRIDS) --profile $(PROFILE) $(SEED_FLAG) --report reports/$(PROFILE)

bench: .venv/.bench
	$(BIN)/python benchmarks/run_all.py $(BENCHMARKS)

ui: .venv/.runtime
	$(BIN)/pld-grid ui

format: .venv/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .pld_grid reports/quickstart build dist *.egg-info
