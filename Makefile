# Needs only make and a Python from 3.11 on; every environment is made here, in hidden folders.
.DEFAULT_GOAL := help
.PHONY: help demo test lint types check-fast coverage proof mutants soak bench bench-check clean

CANDIDATES := python3.11 python3.12 python3.13 python3.14 python3.15 python3 python \
	$(wildcard $(HOME)/.pyenv/versions/*/bin/python3 /usr/local/bin/python3 /opt/*/bin/python3)
WORKS := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in $(CANDIDATES); do "$$p" -c "$(WORKS)" 2>/dev/null && echo "$$p" && break; done)
VENV = $(if $(PYTHON),,$(error Python 3.11 or newer (with venv) was not found. Install it, or name it: make PYTHON=/path/to/python))$(PYTHON) -m venv
PIP = bin/python -m pip install --quiet --disable-pip-version-check
FIND = .venv/bin/python tests/interpreters.py

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z -]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: .demo/ready ## Run the demo: every vendor simulated on this machine, no account needed
	@.demo/bin/tronsave-async demo tronsave
	@.demo/bin/tronsave-async demo ripio

test: .venv/ready ## Lint, types, and the suite against the built wheel on the interpreters found
	env $$($(FIND) --all) .venv/bin/tox run-parallel --parallel-no-spinner

lint types: .venv/ready ## Only ruff, or only mypy
	.venv/bin/tox run -e $@

check-fast: .venv/ready ## Lint, types, and the suite on one interpreter; ARGS='-k limiter' goes to pytest
	env $$($(FIND)) .venv/bin/tox run -- $(ARGS)

coverage: .venv/ready ## Branch coverage of the suite, and of each pure module by its own tests alone
	env $$($(FIND) --cov) .venv/bin/tox run -- $(ARGS)

proof: .venv/ready ## The scripted disasters, all of them, and the figures of tests/README.md
	env THOROUGH=1 $$($(FIND) --proof) .venv/bin/tox run -- $(ARGS)

mutants: .tools/ready ## Does a test notice when a decision changes? ARGS='limiter retry', ARGS='--every 10'
	.tools/bin/python tests/mutants.py $(ARGS)

soak: .tools/ready ## The cancellation storm in real time; ARGS='--seconds 600 --vendor ripio'
	.tools/bin/python benchmarks/soak.py $(ARGS)

bench: .bench/ready ## Measure against a hand-written ideal and the peers; writes benchmarks/RESULTS.md
	.bench/bin/python benchmarks/run.py $(ARGS)

bench-check: .bench/ready ## Have the hot paths become slower? Against the ratios in benchmarks/expected.json
	.bench/bin/python benchmarks/check.py $(ARGS)

clean: ## Remove every environment and cache
	rm -rf .venv .demo .tools .bench .tox .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage dist

.venv/ready: Makefile
	$(VENV) --clear .venv && .venv/$(PIP) 'tox>=4.50' && touch $@

.demo/ready: pyproject.toml
	$(VENV) --clear .demo && .demo/$(PIP) --editable '.[cli]' && touch $@

.tools/ready: pyproject.toml
	$(VENV) --clear .tools && .tools/$(PIP) --editable '.[cli,test,dev]' 'mutmut>=3.3,<4' && touch $@

.bench/ready: pyproject.toml benchmarks/requirements.txt
	$(VENV) --clear .bench && .bench/$(PIP) --editable .
	.bench/$(PIP) --requirement benchmarks/requirements.txt || \
		sed 's/ *#.*//' benchmarks/requirements.txt | xargs -n 1 .bench/$(PIP) || true
	touch $@
