"""Runs the multi-rank tests again and again on 4 ranks while a busy loop occupies each core.

python tests/python/stress.py [--times 20] [--ranks 4] [pytest arguments]
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from processes import environment

HERE = Path(__file__).resolve().parent
# Computes much and communicates little.
LEFT_OUT = ("test_matrix.py",)
BUSY = "while True: pass"


def files():
    """The test files of the multi-rank subset."""
    return [
        str(path)
        for path in sorted(HERE.glob("test_*.py"))
        if path.name not in LEFT_OUT and re.search(r"^@multirank", path.read_text(), re.MULTILINE)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--ranks", default="4")
    parser.add_argument("--quiet-machine", action="store_true", help="without the busy loops")
    options, rest = parser.parse_known_args()
    cores = 0 if options.quiet_machine else len(os.sched_getaffinity(0))
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(cores)]
    env = environment(RMPI_TEST_RANKS=options.ranks, RMPI_TEST_PATIENCE="4")
    bad = []
    try:
        for turn in range(1, options.times + 1):
            begun = time.monotonic()
            command = [sys.executable, "-m", "pytest", "-q", "--multirank=only", *files(), *rest]
            ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            last = (ended.stdout.strip().splitlines() or ["no output"])[-1]
            print(f"{turn}/{options.times}: {last} ({time.monotonic() - begun:.0f} s)", flush=True)
            if ended.returncode != 0:
                bad.append(turn)
                print(ended.stdout + ended.stderr, flush=True)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    print(f"{options.times - len(bad)} of {options.times} runs passed" + (f"; failed: {bad}" if bad else ""))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
