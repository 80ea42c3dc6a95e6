# Set-up needs Python 3.11 or newer, make and a C compiler; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NODE := tests/system/clients/node
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python

.PHONY: demo test test-compiled test-vllm fuzz chaos check format compile uncompile bench bench-gateway bench-scaling clean

demo: $(VENV)/.demo
	$(BIN)/hostler demo

test: $(VENV)/.clients $(VENV)/.services
	$(BIN)/pytest -n 4 --dist loadgroup

# The rooms that are compiled, with their compiled modules; `make uncompile` goes back to the sources.
test-compiled: compile $(VENV)/.services
	$(BIN)/pytest -n 4 --dist loadgroup tests/gateway tests/decide

test-vllm: $(VENV)/.test
	$(BIN)/python scripts/vllm_environment.py .venv-vllm
	HOSTLER_TEST_VLLM=.venv-vllm $(BIN)/pytest -m vllm

fuzz: $(VENV)/.test
	$(BIN)/python tests/gateway/fuzz_gateway.py

# Options go to it with ARGS, as in: make chaos ARGS='--seed 2 --kills 400'
chaos: $(VENV)/.test
	$(BIN)/python -m tests.chaos $(ARGS)

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_file_sizes.py

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compile: $(VENV)/.test
	HOSTLER_COMPILE=1 $(UV) --editable . --no-deps --reinstall-package hostler

uncompile:
	find src/hostler -name '*.so' -delete

bench: $(VENV)/.test
	$(BIN)/python benchmarks/startup.py

# Options go to it with ARGS, as in: make bench-gateway ARGS='--only plain,stream'
bench-gateway: $(VENV)/.bench
	HOSTLER_COMPILE=1 $(UV) --editable . --no-deps --reinstall-package hostler
	$(BIN)/python scripts/bench_peers.py
	$(BIN)/python -m benchmarks.gateway $(ARGS)

# Options go to it with ARGS, as in: make bench-scaling ARGS='--only policies'
bench-scaling: $(VENV)/.bench
	$(BIN)/python -m benchmarks.scaling $(ARGS)

clean: uncompile
	rm -rf $(VENV) .venv-vllm .venv-clients .venv-bench-* $(NODE)/node_modules

$(VENV)/.uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Hostler needs Python 3.11 or newer; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install 'uv>=0.5'
	touch $@

$(VENV)/.demo: $(VENV)/.uv pyproject.toml
	$(UV) --editable '.[demo]'
	touch $@

$(VENV)/.test: $(VENV)/.uv pyproject.toml
	$(UV) --editable '.[all]' --group check --group test
	touch $@ $(VENV)/.demo

$(VENV)/.clients: $(VENV)/.test $(NODE)/package-lock.json scripts/client_environments.py
	$(BIN)/python scripts/client_environments.py

$(VENV)/.services: $(VENV)/.test scripts/test_services.py
	$(BIN)/python scripts/test_services.py
	touch $@

$(VENV)/.bench: $(VENV)/.test
	$(UV) --editable . --group bench
	touch $@
