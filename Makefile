# Two commands for a newcomer: `make demo` and `make test`. Both set up their own .venv first. CONTRIBUTING.md has the rest.
PYTHON ?= python3
JOBS ?= 2
MUTANTS ?= nullinv_core.*
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test coverage mutants test-full fuzz neighbours lint validate docs comfyui evaluate clean

demo: .venv/.installed
	$(BIN)/python -m nullinv_core demo --out demo-out

# One thread each: for networks this small two processes are faster than two threads. The ComfyUI suite is collected first
# and its files are the longest, so that the core's fill up what is left.
test: .venv/.installed-dev lint
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

coverage: .venv/.installed-dev
	$(BIN)/python -m pytest --cov --cov-report=term tests/core

mutants: .venv/.installed-dev
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1 $(BIN)/python -m mutmut run --max-children $(JOBS) '$(MUTANTS)'
	@$(BIN)/python -m mutmut results | sed -n '/: survived$$/p'

test-full: .venv/.installed-dev
	$(BIN)/python -m pytest -m full

fuzz: .venv/.installed-dev
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive TRANSFORMERS_VERBOSITY=error $(BIN)/python -m tests.fuzz --cases 200000 --saves 2000 --jobs $(JOBS)

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
# the nodes import the core from the folder above them, which needs a name
	mkdir -p build/types && ln -sfn ../.. build/types/pack
	cd build/types && ../../$(BIN)/mypy --config-file pack/pyproject.toml -p pack.nodes

# NEIGHBOURS: a folder with the sources that tests/neighbours/packs.py lists; what they import must be in ComfyUI's environment
neighbours: .venv/.installed-dev
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m neighbours tests/neighbours

validate: .venv/.installed-dev .venv/.installed-registry
	COMFY_CLI=$(CURDIR)/.venv/registry/bin/comfy $(BIN)/python -m pytest tests/core/test_publishing.py

# the site comes to build/site; SERVE=1 shows it on this computer while pages are written
docs: .venv/.installed-docs
	NO_MKDOCS_2_WARNING=1 .venv/docs/bin/mkdocs $(if $(SERVE),serve,build --strict)

comfyui:
	$(PYTHON) -m tests.comfyui.installation

evaluate: .venv/.installed
	$(BIN)/python -m nullinv_core.demo.training.evaluate

.venv/.installed: requirements.txt requirements-cli.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the pinned versions need Python 3.11 or newer; say which with PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) --requirement requirements.txt --requirement requirements-cli.txt
	touch $@

.venv/.installed-dev: .venv/.installed requirements-dev.txt requirements-score.txt requirements-cluster.txt
	$(PIP) --requirement requirements-dev.txt
	touch $@

# the registry's program brings forty packages of its own, so it stays out of the environment of the tests
.venv/.installed-registry: .venv/.installed constraints.txt
	$(PYTHON) -m venv .venv/registry
	.venv/registry/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt comfy-cli
	touch $@

.venv/.installed-docs: requirements-docs.txt constraints.txt
	$(PYTHON) -m venv .venv/docs
	.venv/docs/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --requirement requirements-docs.txt
	touch $@

clean:
	rm -rf .venv demo-out
