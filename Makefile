# Every target sets itself up in .venv first; `make test` is what CI runs.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup quickstart examples pictures test test-fast test-all check format docs site site-all release-check bench bench-quick calibrate clean

PY := .venv/bin/python
READY := .venv/.ready
EXAMPLES := experiment overlap counterfactuals mediation simulator learning impact
export PYTHON
# Children of tests read what was compiled before them; where the setting is on, each compiles all.
export PYTHONDONTWRITEBYTECODE :=

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## make .venv and install everything into it

$(READY): pyproject.toml scripts/setup.sh
	@scripts/setup.sh

quickstart: $(READY)  ## estimate a real effect on real data (under two minutes)
	@$(PY) examples/quickstart.py

examples: $(READY)  ## seven more: an experiment, overlap, counterfactuals, mediation, a simulator, learning, impact over time (ten minutes)
	@for name in $(EXAMPLES); do $(PY) examples/$$name.py || exit 1; done

pictures: quickstart examples  ## the same, and take their pictures into the pages
	@cp examples/quickstart.png $(EXAMPLES:%=examples/%.png) docs/

test: $(READY)  ## lint, types and the fast tests
	@$(MAKE) --no-print-directory -j 2 check test-fast

test-fast: $(READY)  # beside the check, which has work for one core
	$(PY) -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

test-all: check  ## lint, types and every test
	$(PY) -m pytest -n 2 --dist loadfile

check: $(READY)  ## lint, format, types and the fragments of the changelog
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	@$(PY) -m towncrier build --draft --version next > /dev/null

format: $(READY)  ## apply the formatter and the safe fixes
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(READY)  ## run every example of the README, the docs and the docstrings
	$(PY) -m pytest tests/pages/test_docs.py
	$(PY) -m pytest --doctest-modules aimz

site: $(READY)  ## build the site into build/site, without running its notebooks anew where they have not changed
	$(PY) -m sphinx -W --keep-going -q -b html docs build/site

site-all: $(READY)  ## the same from nothing: every notebook runs
	AIMZ_SITE_EXECUTION=force $(PY) -m sphinx -E -W --keep-going -q -b html docs build/site

release-check: $(READY)  ## build wheel and sdist, use them in a clean environment, and test the oldest versions allowed (long)
	$(PY) scripts/release_check.py --bounds

bench: $(READY)  ## measure every row of docs/performance.md beside the published package, and write it (40 minutes)
	$(PY) bench/benchmark.py $(BENCH)

bench-quick: $(READY)  ## the same on few rows, once, and no page: does it run? (five minutes)
	$(PY) bench/benchmark.py --quick $(BENCH)

calibrate: $(READY)  ## simulation-based calibration of posteriors (some minutes)
	$(PY) -m tests.calibration

clean:  ## remove .venv and the caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
