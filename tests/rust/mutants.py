"""Changes the Rust core in one place after another with cargo-mutants, and sees to it that tests notice.

python tests/rust/mutants.py [--shard 0/8] [--unit] FOLDER-OF-SRC...   (make mutants sets what it needs)

For engine, collective and reduce: all that is compiled for plain tests on this machine. What no unit test of a folder
notices, all tests of the core try (`cargo test`, without loom). What is left has to be in survivors.toml, and why.
Works on a clone of the last commit, in build/mutants. What has been noticed in a file is kept while that file stays as
it is: a run goes on where it was ended, and after new tests only what was missed is tried again; --fresh forgets
it. A change takes some ten seconds; one that makes the tests hang a minute.
"""

import argparse
import collections
import json
import os
import re
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
# What a change to them takes is mostly compiling. The other folders' tests compute more.
UNOPTIMISED = ("engine", "reduce")
# Changes in one run of cargo-mutants.
PART = 40
OUTCOMES = ("caught", "missed", "timeout", "unviable")


def cargo(*words, variables=(), **options):
    """Runs cargo as the Makefile does, from the clone."""
    environment = os.environ | {"CARGO_PROFILE_DEV_DEBUG": "0", "CARGO_TARGET_DIR": str(FOLDER / "target")}
    environment |= dict(variables)
    environment["PATH"] = f"{FOLDER / 'tool' / 'bin'}:{environment['PATH']}"
    return subprocess.run([str(REPOSITORY / "cmake" / "cargo.sh"), *words], env=environment, check=False, **options)


def install():
    if not (FOLDER / "tool" / "bin" / "cargo-mutants").exists():
        words = ["cargo-mutants", "--version", VERSION, "--locked", "--root", str(FOLDER / "tool")]
        if cargo("install", *words, cwd=REPOSITORY).returncode != 0:
            sys.exit("cargo-mutants could not be installed: see above")


def clone():
    """The last commit."""
    source = FOLDER / "source"
    if not source.exists():
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(REPOSITORY), str(source)], check=True)
    # A run that was ended may have left its change.
    for words in (["fetch", "--quiet", "origin", "HEAD"], ["checkout", "--quiet", "--force", "FETCH_HEAD"]):
        subprocess.run(["git", *words], cwd=source, check=True)
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
    variables = {}
    if tests == "unit":
        # That one test fails is enough, which only an unstable option of the test runner says.
        variables["RUSTC_BOOTSTRAP"] = "1"
        words += ["--", "--lib", f"{folder.replace('/', '::')}::", "--", "-Zunstable-options", "--fail-fast"]
        if folder.split("/")[0] in UNOPTIMISED:
            variables["CARGO_PROFILE_DEV_OPT_LEVEL"] = "0"
    code = cargo("mutants", *words, variables=variables, cwd=source).returncode
    # 2 and 3: some were missed, or hung.
    if code not in (0, 2, 3):
        sys.exit(f"cargo mutants ended with {code}")
    files = {what: FOLDER / "results" / "mutants.out" / f"{what}.txt" for what in OUTCOMES}
    return {line: what for what, file in files.items() for line in file.read_text().splitlines()}


def name(line):
    """A mutant without its place in the file, which changes with every edit above it."""
    return re.sub(r"^(\S+?):\d+:\d+: ", r"\1: ", line)


def blobs(source, folder):
    """What git calls the contents of each file."""
    text = subprocess.check_output(["git", "ls-tree", "-r", "HEAD", f"src/{folder}"], cwd=source, text=True)
    return {path: line.split()[2] for line, path in (row.split("\t") for row in text.splitlines())}


class Noticed:
    """What became of noticed changes, in a file. What it says of a source file that has changed is left out."""

    def __init__(self, source, folder):
        self.path = FOLDER / f"noticed-{folder.replace('/', '-')}.json"
        self.blobs = blobs(source, folder)
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.became = {}
        for file, (blob, became) in known.items():
            if self.blobs.get(file) == blob:
                self.became |= became

    def add(self, became):
        self.became |= {line: what for line, what in became.items() if what != "missed"}
        files = collections.defaultdict(dict)
        for line, what in self.became.items():
            files[line.split(":")[0]][line] = what
        self.path.write_text(json.dumps({file: (self.blobs[file], rows) for file, rows in files.items()}, indent=1))


def try_out(source, folder, wanted, passes):
    """What became of each of these changes."""
    noticed = Noticed(source, folder)
    for tests in passes:
        # In small parts, so that little is lost when this is ended.
        left = [line for line in wanted if line not in noticed.became]
        for first in range(0, len(left), PART):
            noticed.add(run(source, folder, tests, left[first : first + PART]))
    return {line: noticed.became.get(line, "missed") for line in wanted}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER-OF-SRC", help="engine, collective/node, reduce, ...")
    parser.add_argument("--shard", default="0/1", help="the K-th of N parts of the changes (0/1)")
    parser.add_argument("--unit", action="store_true", help="only the unit tests of the folder")
    parser.add_argument("--fresh", action="store_true", help="forget what was noticed before")
    options = parser.parse_args()
    shard, shards = map(int, options.shard.split("/"))
    entries = tomllib.loads(SURVIVORS.read_text()).get("survivor", [])
    excused = collections.Counter({entry["mutant"]: entry.get("count", 1) for entry in entries if entry["reason"]})
    FOLDER.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        for file in FOLDER.glob("noticed-*"):
            file.unlink()
    install()
    source = clone()
    became = {}
    for folder in (folder.strip("/") for folder in options.folders):
        passes = ["unit"] if options.unit else list(LIMITS)
        became |= try_out(source, folder, changes(source, folder)[shard::shards], passes)
    print(dict(collections.Counter(became.values())))
    print("made tests hang:", *(line for line, what in became.items() if what == "timeout"), sep="\n  ")
    missed = collections.Counter(name(line) for line, what in became.items() if what == "missed")
    left = missed - excused
    print(f"{left.total()} that no test notices and survivors.toml does not list:", *left.elements(), sep="\n  ")
    stale = [mutant for mutant in excused if mutant not in missed] if shards == 1 and not options.unit else []
    print("listed there, and not among these:", *stale, sep="\n  ")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
