PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo house test test-kernels test-browser mutations notebooks test-notebooks docs lint clean

$(STAMP): pyproject.toml constraints.txt hatch_build.py couplings/ops/build_native.py $(wildcard couplings/ops/csrc/*.[ch]*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)  ## train an IB-INN on real handwritten digits, in under two minutes
	$(BIN)/flowclf train ib-inn --data digits

test: $(STAMP)  ## all tests; those on real data need FLOWCLF_DATA
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal

test-kernels: $(STAMP)  ## the operators' other kernels: PyTorch's own, older CPUs', interpreted Triton
	COUPLINGS_KERNELS=python $(BIN)/python -m pytest -n 2 tests/couplings/ops
	ATEN_CPU_CAPABILITY=avx2 $(BIN)/python -m pytest -n 2 tests/couplings/ops
	$(BIN)/pip install --quiet -c constraints.txt triton
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n 2 tests/kernels

test-browser: $(STAMP)  ## the page of `flowclf report` in a headless chromium, where there is one
	FLOWCLF_BROWSER=1 $(BIN)/python -m pytest -rs tests/browser

mutations: $(STAMP)  ## deliberate faults in a copy of the packages, each to be found by a test
	$(BIN)/python tests/mutations.py

house: $(STAMP)  ## the size of the house: lines, modules, files entered on four walks
	$(BIN)/python tests/house.py

notebooks: $(STAMP)  ## run the notebooks' sources afresh, into the .ipynb beside them
	$(BIN)/pip install --quiet -c constraints.txt -e '.[notebooks]'
	$(BIN)/python notebooks/execute.py

test-notebooks: $(STAMP)  ## the same, writing nothing
	$(BIN)/pip install --quiet -c constraints.txt -e '.[notebooks]'
	$(BIN)/python notebooks/execute.py --check

docs: $(STAMP)  ## the API reference, of the docstrings: docs/_build/index.html
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/sphinx-build -W --keep-going --quiet docs docs/_build

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) runs docs/_build .pytest_cache .ruff_cache .mypy_cache
