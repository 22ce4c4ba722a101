"""Changes the Rust core in one place after another with cargo-mutants, and sees to it that tests notice.

python tests/rust/mutants.py [--shard 0/8] FOLDER-OF-SRC...

What no unit test of a folder notices, all tests of the core try (`cargo test`). What is left has to be in
survivors.toml, with the reason. Works on a clone of the last commit, in build/mutants, and goes on where it was ended.
A change takes some ten seconds, one that makes the tests hang a minute.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "build" / "mutants"
SURVIVORS = Path(__file__).with_name("survivors.toml")
VERSION = "27.1.0"
# Seconds for the unit tests, which take a few, and for all tests.
LIMITS = {"unit": 40, "all": 240}


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
            sys.exit("cargo-mutants could not be installed")


def head(folder):
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=folder, text=True).strip()


def clone():
    """The last commit. Results of another commit are thrown away."""
    source = FOLDER / "source"
    if source.exists() and head(source) == head(REPOSITORY):
        # A run that was ended may have left its change.
        subprocess.run(["git", "checkout", "--quiet", "."], cwd=source, check=True)
        return source
    for old in [source, *FOLDER.glob("results-*")]:
        shutil.rmtree(old, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(source)], check=True)
    return source


def run(source, folder, shard, tests, hung):
    """One pass over what no earlier one saw noticed. Returns what was missed, and what hung: that is noticed, too."""
    results = FOLDER / f"results-{folder.replace('/', '-')}-{shard.replace('/', '-of-')}"
    words = ["--in-place", "--iterate", "--no-shuffle", "--no-times", "--output", str(results)]
    words += ["--timeout", str(LIMITS[tests]), "--file", f"src/{folder}/**", "--shard", shard]
    words += [f"--exclude-re={re.escape(line)}" for line in hung]
    words += ["--", "--lib", f"{folder.replace('/', '::')}::"] if tests == "unit" else []
    code = cargo("mutants", *words, cwd=source).returncode
    # 2 and 3: some were missed, or hung.
    if code not in (0, 2, 3):
        sys.exit(f"cargo mutants ended with {code}")
    return [(results / "mutants.out" / f"{what}.txt").read_text().splitlines() for what in ("missed", "timeout")]


def name(line):
    """A mutant without its place in the file, which changes with every edit above it."""
    return re.sub(r"^(\S+?):\d+:\d+: ", r"\1: ", line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER-OF-SRC", help="engine, collective/node, reduce, ...")
    parser.add_argument("--shard", default="0/1", help="the K-th of N parts of the changes (0/1)")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    install()
    source = clone()
    excused = {name(entry["mutant"]) for entry in tomllib.loads(SURVIVORS.read_text())["survivor"]}
    left = []
    for folder in options.folders:
        if not list((source / "src" / folder).glob("**/*.rs")):
            sys.exit(f"src/{folder} has no Rust source")
        missed, hung = run(source, folder, options.shard, "unit", [])
        if missed:
            missed, _ = run(source, folder, options.shard, "all", hung)
        left += [line for line in missed if name(line) not in excused]
    print(f"{len(left)} changes that no test notices and survivors.toml does not list", *left, sep="\n")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
