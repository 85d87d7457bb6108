# Two commands for a newcomer: `make demo` and `make test`. Both set up their own .venv first.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-full lint evaluate clean

demo: .venv/.installed
	$(BIN)/python -m nullinv_core demo --out demo-out

test: .venv/.installed-dev lint
	$(BIN)/python -m pytest --cov --cov-report=term

test-full: .venv/.installed-dev
	$(BIN)/python -m pytest -m full

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

evaluate: .venv/.installed
	$(BIN)/python -m nullinv_core.demo.evaluate

.venv/.installed: requirements.txt requirements-cli.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the pinned versions need Python 3.11 or newer; say which with PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) --requirement requirements.txt --requirement requirements-cli.txt
	touch $@

.venv/.installed-dev: .venv/.installed requirements-dev.txt
	$(PIP) --requirement requirements-dev.txt
	touch $@

clean:
	rm -rf .venv demo-out
