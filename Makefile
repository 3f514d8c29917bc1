# make demo | test | lint | bench | audit   (everything runs in .venv, which is made when it is missing)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export HF_HUB_OFFLINE = 1

.PHONY: demo test lint bench bench-quick audit install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/trend-sim demo --out demo-output

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -q

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py --page

bench-quick: $(STAMP)
	$(BIN)/python benchmarks/run.py --quick

audit: $(STAMP)
	$(BIN)/trend-sim audit --out audit-output --json audit-output/audit.json

clean:
	rm -rf $(VENV) demo-output audit-output
