# Everything a newcomer needs: `make quickstart`, `make test`, `make tables`, `make ui`.
PYTHON ?= python3
BIN := .venv/bin
GRIDS := $(sort $(wildcard grids/table*.yaml))
PROFILE ?= digits
SEEDS ?=
# The longest files come first, so that no process is left alone with one of them.
FAULTS ?= tests/faults tests/bad_input
# Files of tests that run at a time.
AT_A_TIME ?= 2
SEED_FLAG := $(if $(SEEDS),--seeds $(SEEDS))
PYTEST = $(BIN)/python -m pytest -n $(AT_A_TIME) --dist loadfile --no-loadscope-reorder

.PHONY: quickstart test test-cluster test-faults lint types contracts unit follows tables bench ui format clean

# Runtime and test packages are installed apart, so that the quickstart waits only for what it needs.
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

quickstart: .venv/.runtime
	$(BIN)/pld-grid run grids/table07.yaml --profile digits --report reports/quickstart --show
	@echo
	@echo "The report: reports/quickstart/index.html   The runs in MLflow: make ui"

test: lint types contracts follows unit

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.test
	$(BIN)/mypy

contracts: .venv/.test
	$(BIN)/lint-imports

# The committed report follows from its own records.
follows: .venv/.runtime
	$(BIN)/pld-grid report --check --out reports/digits

unit: .venv/.test
	$(PYTEST) --ignore tests/cluster --ignore tests/faults --ignore tests/bad_input --ignore tests/docker/test_container_commands.py

# Needs PostgreSQL's programs (Debian: apt-get install postgresql); brings up everything else on loopback.
test-cluster: .venv/.test
	$(PYTEST) tests/cluster tests/docker/test_container_commands.py

# Bad input, kills, full disks, lost servers, damaged files, two drivers on one store; needs PostgreSQL's programs, and
# root for disks of its own (tests skip themselves without, but not with PLD_GRID_NO_SKIPS=1).
# PLD_GRID_FAULT_SEED=N for other moments.
# A third one uses what two leave of two cores while they wait, as for a lease to lapse.
test-faults: AT_A_TIME := 3
test-faults: .venv/.test
	$(PYTEST) $(FAULTS)

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
