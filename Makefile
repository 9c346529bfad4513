# make test      everything: set-up, lint, types, unit, property, sanitizer and real-guest tests
# make test-all  the full matrix of kernels, models and users
# make demo      set-up, then the daemon, a guest, a mount, and what there is to see
# make bench     vhost9p beside its peers: speed, latency, CPU time (a few minutes)
# make bench-upcalls  what the requests cost that Python answers
# make profile   where the time of the three most expensive of them goes
# make bench-scale  whether a request costs the same however many files, devices, VMs there are
# make bench-guest  the same in a real guest under emulation
# make build     the virtual environment (.venv) with vhost9p installed in it
# make clean     removes what the build made; the cache of QEMU and kernels stays

PYTHON ?= python3
export PYTHON
VENV := .venv
BIN := $(VENV)/bin
C_FILES := $(shell find csrc tests/csrc -name "*.[ch]") $(wildcard tests/fuzz/*.c) \
           $(wildcard tests/bench/*.c tests/bench/*.h) \
           $(wildcard tests/guest/*.c tests/guest/posix/*.c tests/guest/posix/*.h)

.PHONY: build lint test test-all demo bench bench-upcalls profile bench-scale bench-guest clean

build: $(VENV)/.built

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

lint: build
	$(BIN)/ruff check vhost9p tests csrc
	$(BIN)/ruff format --check vhost9p tests csrc
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)
	$(BIN)/lint-imports
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m "not full"

test-all: lint
	$(BIN)/python -m pytest

demo: build
	$(BIN)/python -m tests.guest.demo

bench: build
	$(BIN)/python -m tests.bench.run $(BENCH)

bench-upcalls: build
	$(BIN)/python -m tests.bench.upcalls $(BENCH)

profile: build
	$(BIN)/python -m tests.bench.profile $(BENCH)

bench-scale: build
	$(BIN)/python -m tests.bench.scale $(BENCH)

bench-guest: build
	$(BIN)/python -m tests.bench.guest $(BENCH)

clean:
	rm -rf build $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f vhost9p/_native.*
	find vhost9p tests csrc -name __pycache__ -prune -exec rm -rf {} +
