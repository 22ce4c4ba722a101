#!/bin/sh
# Lists the source files of the repository, tracked or about to be: `sources.sh PATTERN...` (patterns of git).
# A file that is deleted but still in the index is left out.
set -eu
git ls-files --cached --others --exclude-standard --deduplicate -- "$@" | while IFS= read -r file; do
  if [ -f "$file" ]; then printf '%s\n' "$file"; fi
done
