#!/bin/sh
# Checks for what only the system can bring, and names each thing that is missing or too old, with the command that
# installs it, on one line.
#
# Environment: PYTHON        the Python to build with
#              MAKE_VERSION  the version of the make that calls this
#              MPI           openmpi, mpich or system
#              MPICC         with MPI=system, the mpicc to use (empty: none was found)
set -u

failures=0

# fail WHAT COMMAND: one line on standard error.
fail() {
  echo "torch-rmpi: $1; install it with: $2" >&2
  failures=1
}

# at_least VERSION MINIMUM: compares "major.minor".
at_least() {
  major=${1%%.*}
  rest=${1#*.}
  minor=${rest%%[!0-9]*}
  [ "$major" -gt "${2%%.*}" ] || { [ "$major" -eq "${2%%.*}" ] && [ "${minor:-0}" -ge "${2#*.}" ]; }
}

# install_command PACKAGE...: how this system installs packages.
install_command() {
  if command -v apt-get >/dev/null 2>&1; then
    echo "sudo apt-get install -y $1"
  elif command -v dnf >/dev/null 2>&1; then
    echo "sudo dnf install -y ${2:-$1}"
  else
    echo "your system's package manager (package $1)"
  fi
}

command -v git >/dev/null 2>&1 || fail "git is missing" "$(install_command git)"

at_least "${MAKE_VERSION:-0.0}" 4.0 ||
  fail "GNU make ${MAKE_VERSION:-(unknown)} is too old, 4.0 or newer is needed" "$(install_command make)"

if ! command -v g++ >/dev/null 2>&1; then
  fail "g++ is missing (12 or newer is needed)" "$(install_command g++ gcc-c++)"
elif gxx=$(g++ -dumpfullversion) && ! at_least "$gxx" 12.0; then
  fail "g++ $gxx is too old (12 or newer is needed)" "$(install_command g++-12 gcc-toolset-12), then make it the default g++"
fi

python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null 2>&1; then
  fail "$python is missing (Python 3.11 or newer is needed; PYTHON= names another one)" \
    "$(install_command "python3 python3-venv" python3)"
elif ! version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
  fail "$python does not run (Python 3.11 or newer is needed; PYTHON= names another one)" \
    "$(install_command "python3 python3-venv" python3)"
elif ! at_least "$version" 3.11; then
  fail "$python is Python $version, too old (3.11 or newer is needed; PYTHON=python3.12 names another one)" \
    "$(install_command "python3.12 python3.12-venv" python3.12)"
elif ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
  fail "Python's venv module is missing" "$(install_command "python$version-venv" python3)"
fi

rustup='curl --proto =https --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y'
if command -v rustup >/dev/null 2>&1; then
  rustup='rustup default stable && rustup update stable'
fi
for tool in cargo rustc; do
  if ! line=$("$tool" --version 2>/dev/null); then
    fail "$tool is missing (Rust 1.88 or newer is needed)" "$rustup"
    break
  fi
  version=${line#* }
  if ! at_least "${version%% *}" 1.88; then
    fail "$tool ${version%% *} is too old (Rust 1.88 or newer is needed)" "$rustup"
    break
  fi
done

case "${MPI:-openmpi}" in
  openmpi | mpich) ;;
  system)
    [ -n "${MPICC:-}" ] || fail "MPI=system, but there is no mpicc on PATH" "$(install_command libopenmpi-dev openmpi-devel)"
    ;;
  *)
    echo "torch-rmpi: MPI=$MPI is unknown; use MPI=openmpi, MPI=mpich or MPI=system" >&2
    failures=1
    ;;
esac

exit "$failures"
