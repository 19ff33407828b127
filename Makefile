PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHELL := bash
STAMP := $(VENV)/.installed

.PHONY: demo house test test-slow test-kernels test-browser wheel-test walk mutations attacks fuzz notebooks test-notebooks docs lint audit lock clean

$(STAMP): pyproject.toml constraints.txt .ci/lock.txt hatch_build.py couplings/ops/build_native.py $(wildcard couplings/ops/csrc/*.[ch]*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet --require-hashes --no-deps -r .ci/lock.txt
	$(BIN)/pip install --quiet --no-build-isolation -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)  ## train an IB-INN on real handwritten digits, in under two minutes
	$(BIN)/flowclf train ib-inn --data digits

test: $(STAMP)  ## all tests but the slow ones; those on real data need FLOWCLF_DATA
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(STAMP)  ## the slow ones, among them killed runs, memory and every figure: a minute more
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

test-kernels: $(STAMP)  ## the operators' other kernels: PyTorch's own, older CPUs', interpreted Triton
	COUPLINGS_KERNELS=python $(BIN)/python -m pytest -n 2 tests/couplings/ops
	ATEN_CPU_CAPABILITY=avx2 $(BIN)/python -m pytest -n 2 tests/couplings/ops
	$(BIN)/pip install --quiet -c constraints.txt triton
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n 2 tests/kernels

test-browser: $(STAMP)  ## the page of `flowclf report` in a headless chromium, where there is one
	FLOWCLF_BROWSER=1 $(BIN)/python -m pytest -rs tests/browser

wheel-test: $(STAMP)  ## build the wheel; use it in an empty environment of each installed Python
	$(BIN)/python tests/wheel.py

walk: $(STAMP)  ## run the commands of the README and the guides, smaller, or say why not
	$(BIN)/python tests/walk.py

mutations: $(STAMP)  ## deliberate faults in a copy of the packages, each to be found by a test
	$(BIN)/python tests/mutations.py

attacks: $(STAMP)  ## a corpus of files, settings, folders and calls as no one should make them
	PYTHONPATH=tests $(BIN)/python tests/test_attacks.py 1

fuzz: $(STAMP)  ## command lines, damaged runs and damaged data at random, FUZZ cases of each
	FLOWCLF_FUZZ=$(or $(FUZZ),500) $(BIN)/python -m pytest -n 2 -s tests/flowclf/cli/test_fuzz_cli.py tests/flowclf/data/test_hostile_fuzz.py

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

audit: $(STAMP)  ## are all files those that were published, and no release a bad one? needs no network
	$(BIN)/python .ci/audit.py

lock: constraints.txt  ## the hashes of what is installed and of what builds, into .ci/lock.txt
	$(BIN)/pip install --quiet uv
	head -2 .ci/lock.txt > .ci/lock.part
	$(BIN)/pip freeze --exclude-editable | grep -ixFf constraints.txt \
	  | sort - <(grep -E '^(hatchling|editables|pathspec|pluggy|packaging|trove-classifiers)=' constraints.txt) -u \
	  | $(BIN)/uv pip compile - --no-deps --no-header --no-annotate --generate-hashes --quiet >> .ci/lock.part
	mv .ci/lock.part .ci/lock.txt

clean:
	rm -rf $(VENV) runs docs/_build .pytest_cache .ruff_cache .mypy_cache
