# Every target sets up what it needs; `make` with no target runs all that a change must pass.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-pyproject
T ?= tests
WORKERS ?= 2
TEST_LIMIT_S ?= 2400
BLAS_THREADS ?= 1
PEERS := $(or $(EMBERFLEET_PEERS_FOLDER),build/peers)
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

export OPENBLAS_NUM_THREADS ?= $(BLAS_THREADS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := check
.PHONY: check dev format-check lint types imports fix test demo bench bench-peers bench-fleet docs wheel runner test-pi test-targets clean

check: format-check lint types imports test

dev: $(STAMP)

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Emberfleet needs Python 3.11 or newer with the venv module: apt install python3 python3-venv" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing Emberfleet and its tools into $(VENV): one or two minutes"
	@$(BIN)/python -m pip install --quiet --editable '.[all,dev]'
	@touch $@

format-check: $(STAMP)
	$(BIN)/ruff format --check .

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	PYTHONPATH=edge:server:converters $(BIN)/lint-imports

fix: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# `make test T=tests/core WORKERS=0` runs a part, in one process.
test: $(STAMP)
	timeout $(TEST_LIMIT_S) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(T)

demo: $(STAMP)
	$(BIN)/python examples/handwriting_fleet/demo.py --out build/demo

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py

# Our engine beside torch, TensorFlow, ONNX Runtime, OpenVINO and LiteRT: 3 GB are installed the first time.
bench-peers: $(STAMP) $(PEERS)/main/.made-from-requirements $(PEERS)/tf/.made-from-requirements
	$(BIN)/python benchmarks/run.py --only startup --only memory --only engine --peers $(PEERS)

# What secure rounds cost beside Flower, and a thousand devices at once; the table goes into benchmarks/README.md.
bench-fleet: $(STAMP) $(PEERS)/flower/.made-from-requirements
	$(BIN)/python benchmarks/fleet/table.py --flower-python $(PEERS)/flower/bin/python

define make-peer
@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
@echo "Installing the peers of $< into $(@D): some minutes"
@$(@D)/bin/python -m pip install --quiet --requirement $<
@touch $@
endef

$(PEERS)/%/.made-from-requirements: benchmarks/engine/requirements-%.txt
	$(make-peer)

$(PEERS)/%/.made-from-requirements: benchmarks/fleet/requirements-%.txt
	$(make-peer)

docs: $(STAMP)
	$(BIN)/python -m pytest -q tests/docs

# The wheel in a clean environment, with what a device installs: are all kernels in it, does it run?
wheel: $(STAMP)
	rm -rf build/wheel build/wheel-venv
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .
	$(BIN)/python -m venv build/wheel-venv
	build/wheel-venv/bin/python -m pip install --quiet "$$(ls build/wheel/emberfleet-*.whl)[opencl,litert]"
	@cd build/wheel-venv/lib/python*/site-packages && for folder in edge converters server; do \
		(cd "$(CURDIR)/$$folder" && find emberfleet -name '*.cl' -o -name '*.tflite' -o -name py.typed) | while read -r file; do \
			test -f "$$file" || { echo "the wheel lacks $$folder/$$file" >&2; exit 1; }; done || exit 1; done
	@cd build/wheel-venv/lib/python*/site-packages/emberfleet/converters/android/sources && ls runner/ember.h android/jni android/java >/dev/null
	cd build && wheel-venv/bin/emberfleet doctor

# The native runner: ember-run, libember.so and libember.a in build/runner, by any C99 compiler.
runner:
	$(MAKE) -C edge/runner

# Emulated Raspberry Pis: ROOT is a folder of root folders, made as docs/guides/raspberry-pi.md says.
test-pi: $(STAMP)
	$(BIN)/python -m tests.pi.run $(ROOT)

# ROOT=FOLDER runs the Debian package on emulated Raspberry Pis too.
test-targets: $(STAMP)
	$(BIN)/python -m tests.targets.run $(if $(ROOT),--roots $(ROOT))

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache $(VENV)
