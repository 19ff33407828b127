PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-kernels lint clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)  ## train an IB-INN on real handwritten digits, in under two minutes
	$(BIN)/flowclf train ib-inn --data digits

test: $(STAMP)  ## all tests; those on real data need FLOWCLF_DATA
	$(BIN)/python -m pytest -n 2

test-kernels: $(STAMP)  ## the Triton kernels, interpreted on the CPU
	$(BIN)/pip install --quiet -c constraints.txt triton
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n 2 tests/kernels

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .mypy_cache
