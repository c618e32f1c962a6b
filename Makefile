# Everything runs in .venv, which the first target that needs it sets up. Needs Python 3.11, git and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Installed first, because a range would take the newest build; skipped where .venv holds torch already.
TORCH ?= torch==2.13.0
WORKERS ?= 2
OUT ?= demo-output
STUDIES ?= studies

VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo serve view test lint docs bench venv

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed ## repair the broken sample masks live by a server, write pictures (OUT=demo-output)
	$(BIN)/rnca demo -o "$(OUT)"

serve: $(VENV)/.installed ## start the MONAI Label server (STUDIES=folder, ARGS="--port 8000")
	$(BIN)/rnca serve --studies "$(STUDIES)" $(ARGS)

view: $(VENV)/.installed ## see a repair in a browser (ARGS="image.nii.gz mask.nii.gz")
	$(BIN)/rnca view $(ARGS)

test: $(VENV)/.installed ## run the test suite (WORKERS=2, ARGS="-k name")
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

lint: $(VENV)/.installed ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs ## build the documentation site in build/site
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.installed ## measure the fast path against the definition (ARGS="--help")
	$(BIN)/python benchmarks/speed.py $(ARGS)

venv: $(VENV)/.installed ## set up .venv (TORCH=torch==2.13.0, PYTHON=python3.11)

$(VENV)/.installed: pyproject.toml apps/rnca_refine/server-requirements.txt
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip show --quiet torch 2>/dev/null || $(BIN)/python -m pip install "$(TORCH)"
	$(BIN)/python -m pip install --editable ".[dev,server,view]"
	$(BIN)/python -m pip install --no-deps -r apps/rnca_refine/server-requirements.txt
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --editable ".[docs]"
	touch $@
