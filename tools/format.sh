#!/bin/sh
# Formats every source file, and applies the fixes that ruff considers safe.
#
# Environment: as in the Makefile
set -eu

cmake/cargo.sh fmt
tools/sources.sh '*.c' '*.cpp' '*.hpp' | xargs -r "$VENV/bin/clang-format" -i
"$VENV/bin/ruff" check --fix --quiet .
"$VENV/bin/ruff" format --quiet .
