# `make` lists the commands (from the comments beside the targets) and these variables.
# PYTHON: the interpreter that .venv is made from
# JOBS: how many tests run at a time
# SECONDS: how long `make fuzz` runs each target
# BENCH: options of a benchmark; BENCH=--help lists them

PYTHON ?= python3
JOBS ?= $(shell n=$$(nproc); echo $$((n < 8 ? 2 * n : 16)))
SECONDS ?= 60
export PYTHON
# The tests start hundreds of daemons: without bytecode each would compile all modules first.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
BIN := $(VENV)/bin
C_FILES := $(shell find csrc tests/csrc -name "*.[ch]") $(wildcard tests/fuzz/*.c tests/fuzz/*.h) \
           $(wildcard tests/bench/*.c tests/bench/*.h) \
           $(wildcard tests/system/host_attacks/*.c) \
           $(wildcard tests/guest/*.c tests/guest/posix/*.c tests/guest/posix/*.h)

.PHONY: help build lint test test-all fuzz demo guest bench bench-upcalls profile bench-scale bench-idle bench-guest bench-changes dist clean

# Fetches what guests need before there are workers that would wait for each other, each with a line
# of progress. Where it fails, the tests say so.
fetch = @$(BIN)/python -m tests.guest.fetch $(1) >/dev/null || true

help:  ## this list
	@echo 'make COMMAND [VARIABLE=value]'
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18
	@echo 'Variables:'
	@sed -nE 's/^# ([A-Z]+): (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

build: $(VENV)/.built  ## the virtual environment (.venv) with vhost9p installed in it

$(VENV)/.venv-made: pyproject.toml tests/prerequisites.sh
	@sh tests/prerequisites.sh
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet cffi pyyaml uvloop xxhash \
	    $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["dev"])')
	@touch $@

$(VENV)/.built: $(VENV)/.venv-made $(shell find csrc -name "*.[ch]" -o -name "*.py") pyproject.toml
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

# The fuzzing engine is large, and there are wheels of it for x86-64 only: elsewhere the tests of
# tests/fuzz are skipped, and `make fuzz` fails.
$(VENV)/.fuzz-made: $(VENV)/.venv-made pyproject.toml
	@if $(BIN)/python -m pip install --quiet --only-binary :all: \
	    $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["fuzz"])'); \
	then touch $@; else echo "No fuzzing here: there is no wheel of atheris for this machine and Python."; fi

lint: build  ## formats, style, layers and types, of Python and C
	$(BIN)/ruff check vhost9p tests csrc
	$(BIN)/ruff format --check vhost9p tests csrc
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)
	$(BIN)/lint-imports
	$(BIN)/mypy

test: lint $(VENV)/.fuzz-made  ## set-up, lint, then unit, property, sanitizer and real-guest tests
	$(call fetch,qemu tools userland 6.12 newest)
	$(BIN)/python -m pytest -n $(JOBS) -m "not full"

test-all: lint $(VENV)/.fuzz-made  ## the same with every kernel, model and user
	$(call fetch)
	@$(BIN)/python -m tests.guest.uml_kernel >/dev/null || true
	$(BIN)/python -m pytest -n $(JOBS)

fuzz: build $(VENV)/.fuzz-made  ## coverage-guided fuzzing; keeps what it finds in tests/fuzz/corpus
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS)

demo: build  ## set-up, then the daemon, a guest, a mount, and what there is to see
	$(BIN)/python -m tests.guest.demo

guest: build  ## a QEMU, a kernel and an initramfs in build/guest, for a guest that is started by hand
	@$(BIN)/python -m tests.guest.guest_files

bench: build  ## vhost9p beside its peers: speed, latency, CPU time (a quarter of an hour)
	$(BIN)/python -m tests.bench.run $(BENCH)

bench-upcalls: build  ## what the requests cost that Python answers
	$(BIN)/python -m tests.bench.upcalls $(BENCH)

profile: build  ## where their time goes
	$(BIN)/python -m tests.bench.profile $(BENCH)

bench-scale: build  ## whether a request costs the same however many files, devices, VMs there are
	$(BIN)/python -m tests.bench.scale $(BENCH)

bench-idle: build  ## what VMs cost that do nothing
	$(BIN)/python -m tests.bench.idle $(BENCH)

bench-guest: build  ## real programs in real guests: under emulation, and natively (half an hour)
	$(BIN)/python -m tests.bench.guest $(BENCH)
	$(BIN)/python -m tests.bench.uml $(BENCH)

bench-changes: build  ## how soon a guest sees what the host changes, and what that costs (half an hour)
	$(BIN)/python -m tests.bench.changes $(BENCH)
	$(BIN)/python -m tests.bench.uml --agent --cache loose --jobs tree --rounds 13

# The wheel is built from the source distribution, which nothing from earlier builds is in.
dist: build  ## source distribution, wheel, manual pages, schema and completions, in dist/
	@rm -rf dist
	@PYTHONWARNINGS=ignore $(BIN)/python -c \
	    'import sys; sys.path.insert(0, "csrc"); import build; build.backend.build_sdist("dist")' >/dev/null
	@$(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist dist/*.tar.gz
	@for each in man1:vhost9p.1 man5:vhost9p.yaml.5 schema:vhost9p.schema.json \
	    bash:vhost9p.bash zsh:_vhost9p fish:vhost9p.fish; do \
	    $(BIN)/python -m vhost9p.reference $${each%%:*} > dist/$${each#*:} || exit 1; done
	@ls dist

clean:  ## removes what the build made; the cache of QEMU and kernels stays
	rm -rf build dist $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f vhost9p/_native.*
	find vhost9p tests csrc -name __pycache__ -prune -exec rm -rf {} +
