PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ALGO ?= espo
ENV ?= Humanoid-v4
ARGS ?=

.PHONY: run test lint clean

run: $(VENV)/.run  ## train the main job into runs/
	$(BIN)/python -m rlkit_es.run --algo $(ALGO) --env $(ENV) $(ARGS)

test: $(VENV)/.test  ## the fast suite, in two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python setup.cfg pyproject.toml constraints.txt
	$(BIN)/python -m pip install -c constraints.txt -e ".[envpool,atari,dmc]"
	touch $@

$(VENV)/.test: $(VENV)/bin/python setup.cfg pyproject.toml constraints.txt
	$(BIN)/python -m pip install -c constraints.txt -e ".[envpool,dev]"
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
