# Everything a developer does, from nothing: system packages, virtual environment, build, run. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find src -type f -not -name '*.py[cod]') meson.build meson.options pyproject.toml README.md LICENSE
TEST ?=
FUZZ_SECONDS ?= 60
FUZZ := build/fuzz
SANITIZERS := address,undefined

.PHONY: help demo test test-fast lint fuzz bench lab-tree clean packages-demo packages-test packages-fuzz packages-build
.DELETE_ON_ERROR:

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: packages-demo .stamps/installed ## two Linux guests on two emulated eMMCs, in a few seconds
	$(BIN)/virtflash demo

test: packages-test .stamps/tests ## all tests (TEST="-k name" and the like go to pytest)
	$(BIN)/python -m pytest $(TEST)

test-fast: packages-build .stamps/tests ## the tests that boot no emulated machine
	$(BIN)/python -m pytest -m "not slow" $(TEST)

lint: packages-build .stamps/tests ## ruff, mypy, cython-lint
	$(BIN)/ruff check .
	$(BIN)/mypy --strict --python-executable $(BIN)/python src/virtflash
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint $$(git ls-files '*.pyx' '*.pxd')

fuzz: packages-fuzz .stamps/fuzz ## a hostile guest against the sanitized data plane, FUZZ_SECONDS=60
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	PYTHONPATH="$(CURDIR)/$(FUZZ)/tree/site" \
	$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS)

bench: packages-build .stamps/installed ## start, idle and memory; for speed see virtflash bench --help
	$(BIN)/python bench/start_and_idle.py

lab-tree: ## the newest QEMU and libblkio in a tree beside the system, for the tests that use them
	scripts/make-lab-tree

clean: ## remove what was built here
	rm -rf $(VENV) .stamps build builddir dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

packages-build:
	@scripts/install-system-packages build

packages-demo:
	@scripts/install-system-packages build demo

packages-test:
	@scripts/install-system-packages build demo test

packages-fuzz:
	@scripts/install-system-packages build fuzz

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

.stamps:
	mkdir -p $@

# Installed, not editable: what runs is what a user gets. Made again when a source is newer.
.stamps/installed: $(SOURCES) | $(BIN)/python .stamps
	$(BIN)/pip install --quiet .
	touch $@

.stamps/tests: $(SOURCES) | $(BIN)/python .stamps
	$(BIN)/pip install --quiet '.[test]'
	touch $@ .stamps/installed

.stamps/build-tools: pyproject.toml | $(BIN)/python .stamps
	$(BIN)/pip install --quiet 'meson>=1.3' ninja 'cython>=3.0.10'
	touch $@

.stamps/fuzz: $(SOURCES) $(wildcard tests/fuzz/*) .stamps/build-tools
	rm -rf $(FUZZ)
	PATH="$(CURDIR)/$(BIN):$$PATH" CC=gcc meson setup $(FUZZ) -Dfuzz=true -Dbuildtype=debugoptimized \
	    -Db_sanitize=$(SANITIZERS) -Db_lundef=false \
	    -Dpython.platlibdir=/site -Dpython.purelibdir=/site
	PATH="$(CURDIR)/$(BIN):$$PATH" meson install -C $(FUZZ) --destdir $(CURDIR)/$(FUZZ)/tree --quiet
	touch $@
