"""Changes the Rust core in one place after another with cargo-mutants, and sees to it that tests notice.

python tests/rust/mutants.py [--shard 0/8] FOLDER-OF-SRC...   (make mutants sets what it needs)

For engine, collective and reduce: all that is compiled for plain tests on this machine. What no unit test of a folder
notices, all tests of the core try (`cargo test`, without loom). What is left has to be in survivors.toml, and why.
Works on a clone of the last commit, in build/mutants, and goes on where it was ended, unless there is a new commit. A
change takes some ten seconds; one that makes the tests hang a minute.
"""

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "build" / "mutants" / os.environ.get("MPI", "openmpi")
SURVIVORS = Path(__file__).with_name("survivors.toml")
VERSION = "27.1.0"
# Seconds for the unit tests, which take a few, and for all tests.
LIMITS = {"unit": 60, "all": 240}
# Changes in one run of cargo-mutants.
PART = 40
OUTCOMES = ("caught", "missed", "timeout", "unviable")


def cargo(*words, **options):
    """Runs cargo as the Makefile does, from the clone."""
    # What a change takes is mostly compiling.
    environment = os.environ | {"CARGO_PROFILE_DEV_DEBUG": "0", "CARGO_TARGET_DIR": str(FOLDER / "target")}
    environment["PATH"] = f"{FOLDER / 'tool' / 'bin'}:{environment['PATH']}"
    return subprocess.run([str(REPOSITORY / "cmake" / "cargo.sh"), *words], env=environment, check=False, **options)


def install():
    if not (FOLDER / "tool" / "bin" / "cargo-mutants").exists():
        words = ["cargo-mutants", "--version", VERSION, "--locked", "--root", str(FOLDER / "tool")]
        if cargo("install", *words, cwd=REPOSITORY).returncode != 0:
            sys.exit("cargo-mutants could not be installed: see above")


def head(folder):
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=folder, text=True).strip()


def clone():
    """The last commit. What is known of another commit is thrown away."""
    source = FOLDER / "source"
    if source.exists() and head(source) == head(REPOSITORY):
        # A run that was ended may have left its change.
        subprocess.run(["git", "checkout", "--quiet", "."], cwd=source, check=True)
        return source
    for old in [source, FOLDER / "results", *FOLDER.glob("noticed-*")]:
        shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(source)], check=True)
    return source


def changes(source, folder):
    """All that there are in the folder, each with its place and what it does."""
    words = ["mutants", "--list", "--file", f"src/{folder}/**"]
    lines = cargo(*words, cwd=source, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    if not lines:
        sys.exit(f"there is nothing to change in src/{folder}")
    return lines


def run(source, folder, tests, wanted):
    """Tries these changes. Returns what became of each of them."""
    words = ["--in-place", "--no-times", "--output", str(FOLDER / "results"), "--timeout", str(LIMITS[tests])]
    words += ["--file", f"src/{folder}/**", *(f"--re=^{re.escape(line)}$" for line in wanted)]
    words += ["--", "--lib", f"{folder.replace('/', '::')}::"] if tests == "unit" else []
    code = cargo("mutants", *words, cwd=source).returncode
    # 2 and 3: some were missed, or hung.
    if code not in (0, 2, 3):
        sys.exit(f"cargo mutants ended with {code}")
    files = {what: FOLDER / "results" / "mutants.out" / f"{what}.txt" for what in OUTCOMES}
    return {line: what for what, file in files.items() for line in file.read_text().splitlines()}


def name(line):
    """A mutant without its place in the file, which changes with every edit above it."""
    return re.sub(r"^(\S+?):\d+:\d+: ", r"\1: ", line)


def try_out(source, folder, wanted):
    """What became of each of these changes; a file keeps what has been noticed."""
    file = FOLDER / f"noticed-{folder.replace('/', '-')}.json"
    became = json.loads(file.read_text()) if file.exists() else {}
    for tests in LIMITS:
        # In small parts, so that little is lost when this is ended.
        left = [line for line in wanted if became.get(line, "missed") == "missed"]
        for first in range(0, len(left), PART):
            became |= run(source, folder, tests, left[first : first + PART])
            noticed = {line: what for line, what in became.items() if what != "missed"}
            file.write_text(json.dumps(noticed, indent=1))
    return {line: became[line] for line in wanted}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER-OF-SRC", help="engine, collective/node, reduce, ...")
    parser.add_argument("--shard", default="0/1", help="the K-th of N parts of the changes (0/1)")
    options = parser.parse_args()
    shard, shards = map(int, options.shard.split("/"))
    entries = tomllib.loads(SURVIVORS.read_text()).get("survivor", [])
    excused = collections.Counter({entry["mutant"]: entry.get("count", 1) for entry in entries if entry["reason"]})
    FOLDER.mkdir(parents=True, exist_ok=True)
    install()
    source = clone()
    became = {}
    for folder in (folder.strip("/") for folder in options.folders):
        became |= try_out(source, folder, changes(source, folder)[shard::shards])
    print(dict(collections.Counter(became.values())))
    print("made tests hang:", *(line for line, what in became.items() if what == "timeout"), sep="\n  ")
    missed = collections.Counter(name(line) for line, what in became.items() if what == "missed")
    left = missed - excused
    print(f"{left.total()} that no test notices and survivors.toml does not list:", *left.elements(), sep="\n  ")
    stale = [mutant for mutant in excused if mutant not in missed] if shards == 1 else []
    print("listed there, and not among these:", *stale, sep="\n  ")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
