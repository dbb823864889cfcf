# Thin on purpose: the README shows the same commands without make.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEVELOPED := $(VENV)/.installed-dev
BENCHED := $(VENV)/.installed-bench

.PHONY: demo serve test bench lint format audit newest clean help

demo: $(INSTALLED)  ## train on digits with 40% of the labels broken, through an embedded service
	$(BIN)/mild demo

serve: $(INSTALLED)  ## the service on an embedded store
	$(BIN)/mild-service serve --embedded

test: $(DEVELOPED)  ## all tests; ARGS="-x tests/core" for some
	$(BIN)/python -m pytest $(ARGS)

bench: $(BENCHED)  ## measure every claim against its bar, in about ten minutes; ARGS="--only latency" for one
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(DEVELOPED)  ## style, layers and types, as the CI checks them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(DEVELOPED)  ## format the code, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

audit:  ## known vulnerabilities of the pinned packages
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install -q pip-audit
	.venv-audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip

newest:  ## the tests against the newest version of everything, in an environment of its own
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install --upgrade -e ".[dev]"
	.venv-newest/bin/python -m pytest $(ARGS)

clean:  ## remove the environments, caches and builds
	rm -rf $(VENV) .venv-newest .venv-audit .mypy_cache .ruff_cache .pytest_cache .coverage* build dist

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-7s %s\n", $$1, $$2}' Makefile

# A torch that is already in the environment (PyTorch's CPU build, say) is kept, whatever its version.
define install
@if $(BIN)/pip show -q torch 2>/dev/null; then grep -v '^torch==' constraints.txt; else cat constraints.txt; fi > $(VENV)/constraints.txt
@$(BIN)/pip install --disable-pip-version-check -q -c $(VENV)/constraints.txt -e ".[$(1)]"
@touch $@
endef

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -c 'import platform; print(platform.python_version())'):" \
	    "make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12"; exit 1; }
	@echo "Installing PyTorch and the rest of the demo into $(VENV): 1.6 GB with PyTorch's CPU build, several GB more with CUDA's."
	@echo "pip says nothing meanwhile, for a minute and a half on a fast connection ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call install,all)

$(DEVELOPED): $(INSTALLED)
	@echo "Installing the tools of the tests and linters into $(VENV), 0.6 GB; pip says nothing for about a minute ..."
	$(call install,dev)

$(BENCHED): $(INSTALLED)
	@echo "Installing the packages that benchmarks compare with into $(VENV) ..."
	$(call install,bench)
