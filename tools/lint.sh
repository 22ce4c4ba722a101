#!/bin/bash
# Checks formatting and lints, all checks even if one fails. Changes nothing.
#
# Environment: as in the Makefile
set -u

MAX_LINES=600
failed=0

# check NAME COMMAND...: prints the output only of a check that fails.
check() {
  local name=$1 output
  shift
  if output=$("$@" 2>&1); then
    printf '  %-28s ok\n' "$name"
  else
    printf '  %-28s FAILED\n%s\n' "$name" "$output"
    failed=1
  fi
}

cpp_format() {
  tools/sources.sh '*.c' '*.cpp' '*.hpp' | xargs -r "$VENV/bin/clang-format" --dry-run -Werror
}

# As tools/test.sh builds them. `--profile test` has clippy look at cfg(test), of this crate's library only.
models() {
  RUSTFLAGS="${RUSTFLAGS:-} --cfg loom" cmake/cargo.sh clippy --lib --profile test \
    --target "$(cmake/cargo.sh -vV | sed -n 's/^host: //p')" -- -D warnings
}

file_sizes() {
  local long
  long=$(tools/sources.sh '*.rs' '*.c' '*.h' '*.cpp' '*.hpp' '*.py' '*.pyi' '*.sh' '*.cmake' '*.toml' Makefile CMakeLists.txt |
    xargs wc -l | awk -v max="$MAX_LINES" '$2 != "total" && $1 >= max { print "  " $2 ": " $1 " lines" }')
  if [ -n "$long" ]; then
    printf 'a file has fewer than %d lines; these do two things, split them:\n%s\n' "$MAX_LINES" "$long"
    return 1
  fi
}

check "rustfmt" cmake/cargo.sh fmt --check
check "clippy" cmake/cargo.sh clippy --all-targets -- -D warnings
check "clippy (bridge, benches)" cmake/cargo.sh clippy --all-targets --features bridge,bench-internals -- -D warnings
check "clippy (models)" models
check "clang-format" cpp_format
check "ruff" "$VENV/bin/ruff" check .
check "ruff format" "$VENV/bin/ruff" format --check .
check "mypy" "$VENV/bin/mypy"
check "file sizes" file_sizes
exit "$failed"
