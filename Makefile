# The project's commands. `make` lists them. Each creates the virtual environment that it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help run test test-quant lint audit licences bench peers

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/.runtime  ## raw text to an aligned, registered model on the CPU (deployments/recipes/quickstart.yaml)
	$(BIN)/posttrain run deployments/recipes/quickstart.yaml

# One thread each: the products of a tiny model are too small to be shared out.
test: .venv/.dev  ## tests without those marked slow, in two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-quant: .venv/quant/.ready  ## tests of quantised bases; peft imports their libraries wherever it finds them, which is slow
	PYTHONPATH=.venv/quant $(BIN)/python -m pytest tests/posttrain/checkpoints/test_quantization.py

lint: .venv/.dev  ## style, security rules, types and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# In an environment of its own: pip-audit is no part of the project. Without --strict it passes when it could ask nobody.
audit:  ## known holes of the packages in constraints.txt, by PyPI's advisories: needs the network, and fails without it
	$(PYTHON) -m venv .audit
	.audit/bin/python -m pip install --quiet pip-audit==2.10.1
	.audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

licences: .venv/.runtime  ## write docs/licences.md: the licence of each package that an installation brings
	$(BIN)/python .ci/licences.py > docs/licences.md

bench: .venv/.runtime  ## a benchmark: make bench NAME=...; without a name, lists them
	$(BIN)/python -m bench $(NAME)

peers: .bench/trl/.ready .bench/trl-ppo/.ready .bench/datatrove/.ready  ## environments of the peers that benchmarks compare with, in .bench/

.bench/%/.ready: bench/peers/%.txt
	$(PYTHON) -m venv .bench/$*
	.bench/$*/bin/python -m pip install --requirement $<
	@touch $@

.venv/.runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable .
	@touch $@

.venv/.dev: .venv/.runtime
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv/quant/.ready: .venv/.dev
	$(BIN)/python -m pip install --no-deps --constraint constraints.txt --target .venv/quant torchao bitsandbytes
	@touch $@
