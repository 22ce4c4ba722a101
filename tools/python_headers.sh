#!/bin/sh
# Debian and Ubuntu ship Python.h in a package of its own, which only root can install. Where it is missing, this takes
# the package from the distribution's archive and unpacks it into a folder: `python_headers.sh FOLDER`.
# Does nothing where Python.h is there.
#
# Environment: PYTHON
set -eu

folder=$1
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
include=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')
unpacked="$folder/usr/include/python$version"
if [ -e "$include/Python.h" ] || [ -e "$unpacked/Python.h" ]; then
  exit 0
fi

package="libpython$version-dev"
if ! command -v apt-get >/dev/null 2>&1; then
  echo "torch-rmpi: $include/Python.h is missing; install your system's package of Python's headers (python3-devel)" >&2
  exit 1
fi
mkdir -p "$folder/lists/partial" "$folder/archives"
folder=$(cd "$folder" && pwd)
unpacked="$folder/usr/include/python$version"
apt() { (cd "$folder/archives" && apt-get -q -o Dir::State::lists="$folder/lists" -o Dir::Cache="$folder/archives" "$@"); }
if ! { apt update && apt download "$package" && dpkg-deb -x "$folder/archives/$package"_*.deb "$folder"; } \
  >"$folder/apt.log" 2>&1; then
  echo "torch-rmpi: $include/Python.h is missing; install it with: sudo apt-get install -y python$version-dev" >&2
  exit 1
fi
rm -rf "$folder/lists" "$folder/archives" "$folder/usr/lib" "$folder/usr/share"
# Debian's pyconfig.h includes <ARCHITECTURE/pythonX.Y/pyconfig.h>; make that resolve from this folder alone.
for architecture in "$folder"/usr/include/*-linux-gnu*; do
  ln -sfn "../$(basename "$architecture")" "$unpacked/$(basename "$architecture")"
done
echo "  Took Python's headers from the package $package"
