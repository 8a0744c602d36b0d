# make demo   trains, averages and ranks real checkpoints, offline once installed
# make test   runs all tests and reports the branches they take
# make check  looks at format, style, types, docstrings and the code of the documentation
# make fuzz   reads damaged checkpoints for ten minutes
# make crash-test  kills and fails averages at each system call, and at 1000 random moments
# make docs   builds the documentation site: docs/_build/html/index.html
#
# Each makes what it needs in .venv, from python3 and the package index alone.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --disable-pip-version-check -c constraints.txt
PACKAGING := setup.cfg pyproject.toml constraints.txt

PYTEST := $(RUN) -m pytest
COVERED := --cov --cov-report= --cov-fail-under=0
# Tests that compiled loops run under as plain Python, where coverage can see them.
KERNEL_TESTS := tests/kernels/test_kernels.py tests/kernels/task_vectors \
	tests/kernels/test_ranking.py tests/kernels/test_low_rank.py tests/kernels/test_pairs.py tests/predictions/metrics/test_scoring_loops.py \
	tests/embeddings/tokenization/test_tokenizer.py tests/embeddings/pooling/test_engine.py tests/embeddings/distillation/test_ridge.py \
	tests/embeddings/vectors/test_text.py tests/embeddings/vectors/test_binary.py \
	tests/predictions/thresholds/test_sweep.py tests/predictions/forecasts/test_pools.py

SOURCES = $(shell find ensembles cli/ensembles_cli -name '*.py')

# Modules are compiled once, not by each command that a test starts.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: demo test check fuzz crash-test docs clean

demo: $(VENV)/demo-installed
	$(VENV)/bin/ensemble demo

test: $(VENV)/all-installed
	$(PYTEST) -n 2 --dist worksteal $(COVERED)
	NUMBA_DISABLE_JIT=1 $(PYTEST) -n 2 $(COVERED) --cov-append $(KERNEL_TESTS)
	$(RUN) -m coverage report

check: $(VENV)/all-installed
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -m numpydoc lint $(SOURCES)
	$(PYTEST) ensembles tests/test_docs.py tests/test_vocabulary.py

fuzz: $(VENV)/all-installed
	$(RUN) -W ignore tests/checkpoints/fuzzing.py 600 $$(date +%s)

crash-test: $(VENV)/all-installed
	PYTHONPATH=. $(RUN) -W ignore tests/checkpoints/crashing.py 1000 $$(date +%s)

docs: $(VENV)/docs-installed
	rm -rf docs/_build docs/gallery docs/reference/generated
	$(RUN) -m sphinx -b html -n -W --keep-going -d docs/_build/doctrees docs docs/_build/html

clean:
	rm -rf docs/_build docs/gallery docs/reference/generated
	rm -rf $(VENV) build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo-installed: $(PACKAGING) | $(VENV)/bin/python
	$(INSTALL) -e '.[demo]'
	touch $@

$(VENV)/all-installed: $(VENV)/demo-installed
	$(INSTALL) -e '.[demo,test,dev]'
	touch $@

$(VENV)/docs-installed: $(PACKAGING) | $(VENV)/bin/python
	$(INSTALL) -e '.[docs]'
	touch $@
