# Two commands on a fresh machine: `make quickstart` and `make test`. Both may be run again at any time.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test lint types test-slow docs fuzz bench soak clean

quickstart: $(VENV)/.train
	$(BIN)/qvl-run jobs/cpu_quickstart.yaml

# Two at a time; the tests of a file stay together, since they share what was trained.
test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

docs: $(VENV)/.test
	$(BIN)/python docs/generate.py

fuzz: $(VENV)/.test
	$(PIP) --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz.long 200000

bench: $(VENV)/.test
	$(BIN)/python benchmarks/overhead.py

soak: $(VENV)/.test
	$(BIN)/python -m tests.soak.soak --minutes 30

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "qvl-run needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[train]'
	@touch $@

$(VENV)/.test: pyproject.toml plugins/example_counter/pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[train,test]' --editable plugins/example_counter
	@touch $@ $(VENV)/.train

clean:
	rm -rf $(VENV) qvl-runs build dist .mypy_cache .ruff_cache .pytest_cache
