# `make run` and `make test` are all that a new machine takes: each target sets up what it needs.
SHELL := /bin/bash
export PATH := $(PATH):/usr/sbin:/sbin
PYTHON ?= python3
PY := .venv/bin/python
STAMP := .venv/.installed
INTEROP := tests/interop/node_modules/.installed
# command:Debian package
TOOLS := mosquitto:mosquitto mosquitto_pub:mosquitto-clients haproxy:haproxy ip:iproute2 nft:nftables openssl:openssl \
         systemd-analyze:systemd node:nodejs npm:npm keepalived:keepalived pgrep:procps unshare:util-linux jq:jq curl:curl \
         nginx:nginx ngx_stream_module.so:libnginx-mod-stream
ARGS ?=
# a file of tests shares its hosts, so that one process runs it; one of them waits for the simulation
IN_PARALLEL := -n $(shell echo $$(( $$(nproc) + 1 ))) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: run test soak faults bench demo lint types imports format install wheel build tools clean

run: build
	.venv/bin/mqnode start --config deploy/mqnode.toml

# all tests, in a process for each core, or those of ARGS, in one: make test ARGS="tests/unit -k tls"
test: build tools $(INTEROP)
	$(PY) -m pytest $(or $(ARGS),$(IN_PARALLEL))

# the fault matrix on several hosts; writes docs/faults.md
faults: build tools
	$(PY) -m tests.cluster.matrix $(ARGS)

soak: build tools
	@deploy/require prometheus:prometheus
	$(PY) -m pytest -m soak $(ARGS)

bench: build tools $(INTEROP)
	$(PY) -m bench $(ARGS)

# kill -9 behind HAProxy under load, with a live view; no root needed
demo: build
	@deploy/require haproxy:haproxy
	@$(PY) -m bench.demo

lint: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: $(STAMP)
	.venv/bin/mypy

imports: $(STAMP)
	.venv/bin/lint-imports

format: $(STAMP)
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# leaves a working .venv/bin/mqnode
install: build

# of what `build` has compiled, and without what an earlier build left in build/lib: it would be in the wheel, too
wheel: build
	@flock .build.lock bash -ec 'rm -rf build/lib build/bdist*; mkdir -p build/lib; \
	  for each in node/core/*.pyx storage/*.pyx; do cp --parents -p $${each%.pyx}.*.so build/lib; done; \
	  $(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .'
	@echo "Next, on each host: sudo deploy/install $$(ls -t dist/mqnode-*.whl | head -1)"

build: $(STAMP)
	@flock .build.lock $(PY) setup.py --quiet build_ext --inplace

$(STAMP): pyproject.toml setup.py
	@! command -v $(PYTHON) >/dev/null || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mqnode needs Python 3.11 or later: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@PYTHON=$(PYTHON) deploy/require cc:gcc $(PYTHON):python3 venv:python3-venv Python.h:python3-dev
	@echo "Installing what mqnode needs into .venv and compiling its core: some minutes, once."
	@flock .build.lock bash -ec '\
	  test -x $(PY) || $(PYTHON) -m venv .venv; \
	  $(PY) -m pip install -qq --upgrade pip "setuptools>=75,<81" "Cython>=3.1,<4"; \
	  $(PY) -m pip install -qq --no-build-isolation --editable ".[dev]"; \
	  touch $(STAMP)'

tools:
	@deploy/require $(TOOLS)

$(INTEROP): tests/interop/package.json | tools
	cd tests/interop && npm install --silent --no-audit --no-fund --no-package-lock
	touch $(INTEROP)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf tests/interop/node_modules $(STAMP)
	find node storage bench -name '*.so' -delete -o -name '*.c' -delete
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
