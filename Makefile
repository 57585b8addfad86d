PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ALGO ?= espo
ENV ?= Humanoid-v4
ARGS ?=

.PHONY: run test lint docs clean

run: $(VENV)/.run  ## train the main job into runs/
	$(BIN)/python -m rlkit_es.run --algo $(ALGO) --env $(ENV) $(ARGS)

test: $(VENV)/.test  ## the fast suite, in two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs  ## the site, into build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python setup.cfg pyproject.toml constraints.txt
	$(BIN)/python -m pip install -c constraints.txt -e ".[envpool,atari,dmc]"
	touch $@

$(VENV)/.test: $(VENV)/bin/python setup.cfg pyproject.toml constraints.txt
	$(BIN)/python -m pip install -c constraints.txt -e ".[envpool,dev]"
	touch $@

$(VENV)/.docs: $(VENV)/bin/python setup.cfg pyproject.toml constraints.txt
	$(BIN)/python -m pip install -c constraints.txt -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache *.egg-info
