# Every target sets up what it needs. `make run` and `make test` are all a new machine takes.
SHELL := /bin/bash
PY := .venv/bin/python
STAMP := .venv/.installed

.PHONY: run test build

$(STAMP): pyproject.toml
	python3 -m venv .venv
	.venv/bin/pip install --quiet --upgrade pip
	.venv/bin/pip install --quiet "setuptools>=75,<81" "Cython>=3.1,<4"
	.venv/bin/pip install --quiet --no-build-isolation --editable '.[dev]'
	touch $(STAMP)

build: $(STAMP)
	flock .build.lock $(PY) setup.py --quiet build_ext --inplace

run: build
	.venv/bin/mqnode start --config deploy/mqnode.toml
