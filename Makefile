# Two entry points, each doing all of its set-up on a machine with Python 3.11 or newer and make:
#   make claims               measure the default model, judge the claims, write the reports
#   make claims MODEL=NAME    the same for another: an alias, a hub id, a folder, a GGUF file; `embedded` for the pair
#   make test                 everything that must pass: lint, types, tests, controls, embedded claims
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
VENV ?= .venv
RUN = $(VENV)/bin/python -m
READY = $(VENV)/.ready

.PHONY: claims test unit lint types summaries instruments setup clean

# The property tests of the quantizer's mathematics depend on no model: `make test` runs them.
claims: $(READY)
	$(VENV)/bin/pytest claims --ignore=claims/quantizer_math $(if $(MODEL),--model $(MODEL)) $(OPTIONS)

test: $(READY) lint types unit
	$(VENV)/bin/pytest claims --ignore=claims/quantizer_math --model embedded

# A process for each core, with one thread each; a file's tests share their measurements, so they stay together.
unit: $(READY)
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest tests claims/quantizer_math --numprocesses auto --dist loadfile

lint: $(READY)
	$(RUN) ruff check --no-cache .
	$(RUN) ruff format --no-cache --check .
	$(VENV)/bin/lint-imports --no-cache --no-logo

types: $(READY)
	$(RUN) mypy

# One run's verdicts in Markdown, for each model below OUTPUT; nothing where there is none.
OUTPUT ?= reports/out
summaries:
	@for run in $(wildcard $(OUTPUT)/*/evidence.json); do $(RUN) reports.summary $$run; done

# The hash that cached measurements depend on.
instruments:
	@$(VENV)/bin/python -c "from fixtures.cache.store import instrument_version; print(instrument_version())"

setup: $(READY)

# Torch first, at the pinned version: a range would let pip fetch the newest build with its CUDA packages. Not compiled:
# Python compiles what is imported, a small part of all, when it first is.
INSTALL = $(RUN) pip install --quiet --no-compile --constraint constraints.txt

$(READY): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) --editable '.[development]'
	touch $@

clean:
	rm -rf $(VENV) reports/out
