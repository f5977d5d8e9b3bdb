# make search: from a clean clone to a trained network.  make test: what CI runs.  make bench: are we still as good as we say?
# All set up everything in $(VENV); needed are Python 3.10 or newer, make and a package index.

PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 8080

BIN := $(abspath $(VENV))/bin
ENV := PATH="$(BIN):$$PATH" PYTHONWARNINGS="ignore:pkg_resources is deprecated"
INSTALLED := $(VENV)/.installed

.PHONY: search test lint bench clean

search: $(INSTALLED)
	@echo "The search can be watched at http://127.0.0.1:$(PORT) while it lasts."
	$(ENV) nnictl create --config experiments/proxyless.yml --port $(PORT) --foreground
	$(ENV) nni-proxyless report --train-best experiments/train.yml

# Threads that wait for each other must not spin: two test files run at a time, and commands in them have threads of their own.
test: lint
	$(ENV) OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(ENV) ruff check .
	$(ENV) ruff format --check .
	$(ENV) mypy

# Less than 20 minutes on two quiet cores; results and logs in bench/.
bench: $(INSTALLED)
	$(ENV) python experiments/benchmarks/bench.py --folder bench

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(f"Python 3.10 or newer is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.11 ..." if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
