# `make demo` and `make test` are the two commands; `make help` lists the rest.
SHELL  := bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Two busy workers with two threads each were seen 3 to 15 times slower than with one.
TEST_THREADS ?= 1
ONE    := OMP_NUM_THREADS=$(TEST_THREADS) MKL_NUM_THREADS=$(TEST_THREADS)
NB_WORKERS ?= 2
PY_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-portable test-nbs test-py export store readme colab papers help-pages docs-check site site-check wheel test-wheel bench hooks clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## the virtual environment .venv, with the versions of constraints.txt; instant when it is there

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "triqdef needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another one: make $(or $(firstword $(MAKECMDGOALS)),setup) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV): some minutes the first time, most of them PyTorch."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	@touch $@

demo: setup  ## attack three trained networks on real images, 1 to 13 minutes by cores and load
	$(BIN)/triqdef demo

test: setup  ## every notebook, then pytest (which also checks that the export is clean)
	@rc=0; \
	$(MAKE) --no-print-directory test-nbs || rc=1; \
	$(MAKE) --no-print-directory test-py || rc=1; \
	exit $$rc

# PyTorch's plainest kernels: what an x86 CPU without AVX computes. ONNX Runtime's cannot be chosen so.
test-portable: setup  ## `make test` as a CPU without AVX computes it; TEST_THREADS=2 for two threads a worker
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(MAKE) --no-print-directory test

test-nbs: setup  ## the notebooks alone, and which of them are slow
	PATH="$(abspath $(BIN)):$$PATH" $(ONE) $(BIN)/nbdev-test --n-workers $(NB_WORKERS) --timing --cell-timing-min 2 | $(BIN)/python scripts/slowest.py

test-py: setup  ## pytest alone, a file at a time on each core, long ones first
	@rm -f .junit.xml
	PATH="$(abspath $(BIN)):$$PATH" $(ONE) $(BIN)/python -m pytest -n $(PY_WORKERS) --dist loadfile --no-loadscope-reorder --durations=10 --junitxml=.junit.xml

export: setup  ## triqdef/ from nbs/, notebooks cleaned
	$(BIN)/nbdev-export
	$(BIN)/nbdev-clean

store: setup  ## run one notebook and keep its outputs: make store NB=nbs/000_checks.ipynb
	PATH="$(abspath $(BIN)):$$PATH" $(ONE) PYTHONWARNINGS=ignore::FutureWarning $(BIN)/nbdev-test --save $(NB)
	$(BIN)/nbdev-clean --fname $(NB)

readme: setup  ## README.md from nbs/index.ipynb, without Quarto
	$(BIN)/python scripts/readme.py

colab: setup  ## the badge and the install cell of every page that runs alone on Colab
	$(BIN)/python scripts/colab.py

papers: setup  ## a link at the first mention of each paper on a page
	$(BIN)/python scripts/papers.py

help-pages: setup  ## the help of every command in the page of the command, without running the page
	$(ONE) $(BIN)/python scripts/store_help.py

docs-check: setup  ## what can be checked of the site without Quarto: every page is processed
	PATH="$(abspath $(BIN)):$$PATH" $(ONE) $(BIN)/python scripts/docs_check.py

site: setup  ## the pages in _docs/, by Quarto where it is installed and by pandoc otherwise
	PATH="$(abspath $(BIN)):$$PATH" $(ONE) $(BIN)/python scripts/site.py

site-check: setup  ## the site by pandoc, its links, equations and sections, and in chromium its width and search
	PATH="$(abspath $(BIN)):$$PATH" $(ONE) $(BIN)/python scripts/site.py --pandoc
	$(BIN)/python scripts/site_check.py

wheel: setup  ## the wheel and the source archive, in dist/
	rm -rf dist build
	$(BIN)/python -m build

test-wheel: setup  ## the wheel in an environment of its own, and every tutorial and explanation there, in an empty folder
	$(ONE) $(BIN)/python scripts/check_wheel.py --build --pages

bench: setup  ## the ratios of benchmarks/, one script after the other
	@for f in benchmarks/*.py; do echo "== $$f"; $(BIN)/python $$f || exit 1; done

hooks: setup  ## merge and diff drivers for notebooks in this clone
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/nbdev-install-hooks

clean:  ## what can be made again; the environment stays
	rm -rf _proc _docs .site-cache dist build .pytest_cache .hypothesis .junit.xml *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
