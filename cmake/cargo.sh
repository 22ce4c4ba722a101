#!/bin/sh
# Runs cargo with what the Rust core's build needs: `cargo.sh ARGUMENTS-OF-CARGO`. CMake and make both call it.
#
# Environment: MPICC             the MPI's C compiler
#              RMPI_PYTHON       a Python whose site-packages may hold the libclang wheel
#              CARGO_TARGET_DIR  one folder for each MPI: mpi-sys does not notice when the MPI changes
set -eu

: "${MPICC:?is not set: the MPI C compiler to build with}"
: "${RMPI_PYTHON:?is not set: the Python to build with}"
# The mpirun next to mpicc is the one that can start what is linked with it; rustup installs into ~/.cargo/bin.
PATH="$(dirname "$MPICC"):$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"
export PATH MPICC

# bindgen needs a libclang. The wheel brings none of the compiler's headers, so it borrows gcc's.
if [ -z "${LIBCLANG_PATH:-}" ]; then
  libclang="$("$RMPI_PYTHON" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/clang/native"
  if [ -e "$libclang/libclang.so" ]; then
    export LIBCLANG_PATH="$libclang"
    export BINDGEN_EXTRA_CLANG_ARGS="-I$("${CC:-cc}" -print-file-name=include) ${BINDGEN_EXTRA_CLANG_ARGS:-}"
  fi
fi

exec cargo "$@"
