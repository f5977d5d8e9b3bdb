# make search: from a clean clone to a trained network.  make test: what CI runs.  make bench: are we still as good as we say?
# All set up everything in $(VENV); needed are Python 3.10 or newer, make and a package index.

PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 8080
OLDEST ?= python3.10
NEWEST ?= python3.13

BIN := $(abspath $(VENV))/bin
ENV := PATH="$(BIN):$$PATH" PYTHONWARNINGS="ignore:pkg_resources is deprecated"
# Markers: the package with what a search needs; and with what the tests need besides.
INSTALLED      := $(VENV)/.installed
TEST_INSTALLED := $(VENV)/.installed-test
# The environment that the folder of the target is to be: $(1) Python, $(2) which of the allowed versions of each package.
define ENVIRONMENT
@echo "Set-up: $(@D), $(1) with the $(2) versions"
@rm -rf $(@D)
@$(BIN)/uv venv --quiet --seed --python $(1) $(@D)
@$(BIN)/uv pip install --quiet --compile-bytecode --python $(@D)/bin/python --resolution $(2) -e '.[test]'
@touch $@
endef
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: search test test-oldest test-newest pytest lint bench clean

search: $(INSTALLED)
	@$(ENV) nni-proxyless watch --create experiments/proxyless.yml --port $(PORT) --train-best experiments/train.yml

# Both at a time: real experiments spend much of their time waiting. A linter that complains lets the tests end, and then fails.
test: $(TEST_INSTALLED)
	@$(MAKE) --no-print-directory --keep-going --jobs 2 lint pytest

# The same tests on Python $(OLDEST) with the oldest versions that pyproject.toml allows, and on $(NEWEST) with the newest; ruff and
# mypy judge by the release they are of, and by the types of today's torch, so they have one environment, $(VENV).
test-oldest: $(VENV)-oldest/.installed-test
	@$(MAKE) --no-print-directory pytest VENV=$(VENV)-oldest

test-newest: $(VENV)-newest/.installed-test
	@$(MAKE) --no-print-directory pytest VENV=$(VENV)-newest

# Three files at a time on two cores: the first process has the experiments, which wait (tests/conftest.py). Threads that wait for
# each other must not spin: commands in tests have threads of their own.
pytest:
	$(ENV) OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: $(TEST_INSTALLED)
	$(ENV) nice -n 10 ruff check .
	$(ENV) nice -n 10 ruff format --check .
	$(ENV) nice -n 10 mypy

$(VENV)-oldest/.installed-test: pyproject.toml | $(TEST_INSTALLED)
	$(call ENVIRONMENT,$(OLDEST),lowest-direct)

$(VENV)-newest/.installed-test: pyproject.toml | $(TEST_INSTALLED)
	$(call ENVIRONMENT,$(NEWEST),highest)

# Less than 20 minutes on two quiet cores; results and logs in bench/.
bench: $(INSTALLED)
	@$(PIP) -e '.[evolution]'
	$(ENV) python -m experiments.benchmarks.bench --folder bench

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(f"Python 3.10 or newer is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.11 ..." if sys.version_info < (3, 10) else 0)'
	@echo "Set-up, step 1 of 2: a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip
	@echo "Set-up, step 2 of 2: torch, NNI, timm and this package; about 6 GB, the first time 5 to 15 minutes, in which nothing more is said"
	@$(PIP) -e .
	@touch $@

$(TEST_INSTALLED): $(INSTALLED)
	@echo "Set-up for tests: pytest, ruff, mypy and others"
	@$(PIP) -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest build dist *.egg-info
