# make loop    the whole circuit on real taxi trips, from nothing
# make test    all tests, on all cores (short forms of the long proofs included)
# make check   layers, lint, types
# make proof   kills, attacks and fuzzing in full counts
# make bench-loop      the figures of the loop, to OKRUH_HOME/bench/loop.json
# make bench-lake      those of the lake; make bench-serving: those of serving (wants wrk)
#                      make bench-serving SOAK_MINUTES=60 soaks a service as well
#                      make bench-train: those of training

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev

.PHONY: loop test check proof format clean

loop: $(RUNTIME)
	$(BIN)/okruh loop taxi_eta

test: $(DEV)
	$(BIN)/python -m pytest -m "not proof" -n logical --dist loadfile --no-loadscope-reorder

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

proof: $(DEV)
	$(PIP) install --constraint constraints.txt --editable '.[cpu,dev,ray]'
	$(BIN)/python -m pytest -m proof --timeout 3600

bench-%: $(DEV)
	$(BIN)/python -m tests.benchmarks.$*

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .okruh

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --editable '.[cpu]'
	touch $@

$(DEV): $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --editable '.[cpu,dev]'
	touch $@ $(RUNTIME)
