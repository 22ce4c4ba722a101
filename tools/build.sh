#!/bin/sh
# Builds the project and installs it into the virtual environment. The build folder is kept, so only what changed is
# compiled again.
#
# Environment: PYTHON, VENV, MPICC, LOGS, BUILD_DIR, CARGO_TARGET_DIR   as in the Makefile
set -eu

here=$(dirname "$0")
headers=$(find "$VENV/python-headers/usr/include" -maxdepth 2 -name Python.h -printf %h 2>/dev/null || true)

"$PYTHON" "$here/step.py" "Building torch-rmpi" "$LOGS/build.log" -- \
  "$VENV/bin/python" -m pip --disable-pip-version-check --no-input install --verbose \
  --no-build-isolation --no-deps --force-reinstall \
  --config-settings "build-dir=$BUILD_DIR" \
  --config-settings "cmake.define.RMPI_MPICC=$MPICC" \
  --config-settings "cmake.define.RMPI_CARGO_TARGET_DIR=$CARGO_TARGET_DIR" \
  --config-settings "cmake.define.RMPI_BUILD_TESTS=OFF" \
  ${headers:+--config-settings "cmake.define.Python_INCLUDE_DIR=$(realpath "$headers")"} \
  .
