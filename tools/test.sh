#!/bin/bash
# Runs tests, all the kinds that are asked for even if one fails, and says at the end which failed:
# `test.sh [rust] [models] [cpp] [python] [-- ARGUMENTS]`. The arguments go to the one kind that is named.
#
# Environment: as in the Makefile
set -u

# Arguments choose among the tests; models are no part of them.
rust() {
  local code=0
  cmake/cargo.sh test "$@" || code=$?
  (($#)) || models || code=$?
  return "$code"
}

# The models of src/shm/model. The target has to be named: then build scripts, and what they use, are those of the other
# builds, and the rest goes to a folder of its own.
models() {
  RUSTFLAGS="${RUSTFLAGS:-} --cfg loom" cmake/cargo.sh test --lib --target "$(cmake/cargo.sh -vV | sed -n 's/^host: //p')" "$@"
}

cpp() {
  # The build folder is that of the installation, with the tests added.
  "$PYTHON" tools/step.py "Building the C++ tests" "$LOGS/cpp-tests.log" -- sh -c \
    '"$VENV/bin/cmake" -S . -B "$BUILD_DIR" -DRMPI_BUILD_TESTS=ON && "$VENV/bin/cmake" --build "$BUILD_DIR"' &&
    "$VENV/bin/ctest" --test-dir "$BUILD_DIR" --output-on-failure --no-tests=error "$@"
}

# Tests that start jobs of their own mostly wait, for limits and for processes to end: they run two at a time, beside the
# others, which share a job for each number of ranks. What they say is shown when both have ended.
python() {
  if (($#)); then
    "$VENV/bin/python" -m pytest "$@"
    return
  fi
  local code=0 log=$LOGS/python-jobs.log half halves=()
  # The shell has background processes ignore Ctrl-C.
  trap 'kill $(jobs -pr) 2>/dev/null; wait; exit 130' INT TERM
  "$VENV/bin/python" -m pytest --multirank=none --numprocesses=2 >"$log" 2>&1 &
  halves+=($!)
  "$VENV/bin/python" -m pytest --multirank=only &
  halves+=($!)
  for half in "${halves[@]}"; do
    wait "$half" || code=$?
  done
  trap - INT TERM
  cat "$log"
  return "$code"
}

kinds=()
while (($#)) && [ "$1" != -- ]; do
  kinds+=("$1")
  shift
done
shift $(($# ? 1 : 0))

summary=
failed=0
for kind in "${kinds[@]}"; do
  printf '\n=== %s tests ===\n\n' "$kind"
  start=$SECONDS
  if "$kind" "$@"; then result=passed; else result=FAILED failed=1; fi
  summary+=$(printf '  %-8s %s in %d s' "$kind" "$result" $((SECONDS - start)))$'\n'
done
printf '\n=== tests ===\n\n%s' "$summary"
exit "$failed"
