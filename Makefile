# One command each, from a fresh clone that has only make and Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DOCUMENTS := tests/test_docs.py tests/test_documentation.py
SCALE := small
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-all test-oldest check fmt results bench docs docs-links
.DELETE_ON_ERROR:

# Learn a dictionary from photographs; a finished demo is kept, an unfinished one starts again.
demo: runs/demo/report.html
	@echo "Open $(CURDIR)/runs/demo/report.html (remove runs/demo to learn it again)."

runs/demo/report.html: | $(READY)
	rm -rf runs/demo
	$(BIN)/entrosparse fit --out runs/demo

# The tests of the documents are those of `make check`.
test: $(READY)
	$(BIN)/pytest -n 2 -m "not slow" $(DOCUMENTS:%=--ignore=%)

test-all: $(READY)
	$(BIN)/pytest -n 2

# With the oldest versions that pyproject.toml allows, which need an old Python too.
test-oldest: .venv-oldest/.ready
	.venv-oldest/bin/pytest -n 2 -m "not slow"

check: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pytest --doctest-modules src $(DOCUMENTS)

fmt: $(READY)
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

# The paper's results, and their page among the documents; SCALE=paper takes many hours. What is there stays.
results: $(READY)
	$(BIN)/entrosparse reproduce all --scale $(SCALE) --out runs/results-$(SCALE) --resume
	$(BIN)/python docs/make_results.py runs/results-$(SCALE)

# Speed beside other libraries, and what docs/performance.md shows; QUICK=1 for a rough look.
bench: .venv/.bench
	$(BIN)/python benchmarks/bench.py $(if $(QUICK),--quick)
	$(if $(QUICK),,$(BIN)/python benchmarks/document.py)
	$(if $(QUICK),,$(BIN)/python benchmarks/calibration.py)
	$(if $(QUICK),,$(BIN)/python benchmarks/imputation.py)

# The documentation, with every example run again; docs-links asks the web for the pages that it links to.
docs: .venv/.docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "Open $(CURDIR)/docs/_build/html/index.html."

docs-links: .venv/.docs
	$(BIN)/sphinx-build -b linkcheck -D plot_gallery=0 docs docs/_build/links

.venv/.%: requirements-%.lock $(READY)
	$(BIN)/pip install --disable-pip-version-check --quiet --no-deps -r $<
	touch $@

# An environment is made when it is missing and brought up to date when its locked versions change.
$(READY): requirements-dev.lock
.venv-oldest/.ready: requirements-oldest.lock
$(READY) .venv-oldest/.ready:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "entrosparse needs Python >= 3.11: name one, as in make PYTHON=python3.12")'
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --disable-pip-version-check --quiet -r $<
	$(@D)/bin/pip install --disable-pip-version-check --quiet --no-deps -e .
	touch $@
