# Every target does its own set-up: nothing needs to be run before it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A fresh virtual environment each time a lock file changes keeps out what is no longer locked.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes

.PHONY: install demo test check fuzz mutants chaos soak bench bench-peers lock clean

install: $(VENV)/.installed

$(VENV)/.installed: locks/demo.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) -r locks/demo.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed locks/test.txt
	$(INSTALL) -r locks/test.txt
	@touch $@

demo: install
	$(BIN)/twinlens demo

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests benchmarks
	$(BIN)/lint-imports --no-cache
	$(BIN)/deptry .
	$(BIN)/codespell
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/compose-lint check --no-env --strict-config --fail-on low --skip-suppressed -q docker-compose.yml
	$(BIN)/hadolint Dockerfile

# Files side by side, each process with servers of its own: tests wait for these most of the time.
test: check
	$(BIN)/pytest -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder --cov --cov-report=

# Looks for examples that break a property, requests whose answers are not as the document says, and
# damaged files that end a worker, among others in each run. Before a release.
fuzz: $(VENV)/.installed-test
	$(BIN)/pytest tests/property tests/integration/workers/test_mutations.py tests/e2e/test_document.py \
		--hypothesis-profile=fuzz

# Kills and stops parts of a service that works, on each Milvus; what fails says how to repeat it.
ROUNDS ?= 20
ifndef SEED
SEED := $(shell date +%s)
endif
chaos: $(VENV)/.installed-test
	CHAOS_SEED=$(SEED) CHAOS_ROUNDS=$(ROUNDS) $(BIN)/pytest tests/chaos

# Constant load: memory, descriptors, keys and disk must not grow.
MINUTES ?= 20
soak: $(VENV)/.installed-test
	PYTHONPATH=tests $(BIN)/python -m chaos.soak --minutes $(MINUTES)

# Puts small faults into the code, and counts those that tests see.
mutants: $(VENV)/.installed-mutants
	$(BIN)/python -m benchmarks.mutants

$(VENV)/.installed-mutants: $(VENV)/.installed-test locks/mutants.txt
	$(INSTALL) -r locks/mutants.txt
	@touch $@

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks

# Other servers live in an environment of their own, with the same onnxruntime and Pillow as ours.
PEERS := .venv-peers
bench-peers: $(VENV)/.installed-test $(PEERS)/.installed
	$(BIN)/python -m benchmarks.peers

$(PEERS)/.installed: locks/peers.txt
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# Resolves anew what pyproject.toml allows, for every platform and Python from 3.11 on.
COMPILE = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-annotate --no-header pyproject.toml
lock: $(VENV)/.installed
	$(INSTALL) -r locks/uv.txt
	$(subst pyproject.toml,,$(COMPILE)) locks/uv.in -o locks/uv.txt
	$(COMPILE) --extra embedded --extra heif --extra demo --extra export --extra test locks/build.in \
		-o locks/test.txt
	$(COMPILE) --extra embedded --extra heif --extra demo locks/build.in -c locks/test.txt \
		-o locks/demo.txt
	$(COMPILE) --extra heif locks/build.in -c locks/test.txt -o locks/runtime.txt
	$(subst pyproject.toml,,$(COMPILE)) locks/mutants.in -c locks/test.txt -o locks/mutants.txt
	$(subst pyproject.toml,,$(COMPILE)) locks/peers.in -c locks/test.txt -o locks/peers.txt

clean:
	rm -rf $(VENV) $(PEERS) .demo .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache \
		.hypothesis mutants dist twinlens-demo.png
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
