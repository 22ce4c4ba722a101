"""Runs all of PyTorch's own distributed tests on this backend and compares with Gloo's baselines.

python tests/python/conformance_full.py [--ranks 2,3,4] [--kinds plain,accel,nccl] [--filter REGEX] [--out FOLDER]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import conformance


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="2,3,4", help="numbers of ranks")
    parser.add_argument(
        "--kinds",
        default="plain,accel,nccl",
        help="plain; accel: also the tests that ask for GPUs; nccl: those that only NCCL would run",
    )
    parser.add_argument("--filter", default="", help="regular expression on names of tests")
    parser.add_argument("--out", type=Path, help="folder for logs and reports (default: a new temporary one)")
    parser.add_argument("--batch", type=int, default=25, help="tests for each set of processes")
    options = parser.parse_args()
    harness = conformance.folder()
    if harness is None:
        sys.exit("no conformance harness beside the checkout; name its folder in TORCH_RMPI_CONFORMANCE")
    out = options.out or Path(tempfile.mkdtemp(prefix="rmpi-conformance-"))
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for kind in options.kinds.split(","):
        for ranks in map(int, options.ranks.split(",")):
            begun = time.monotonic()
            log = out / f"w{ranks}_{kind}.log"
            result = conformance.run(
                harness, log, ranks, kind, options.filter, batch=options.batch, limit=7200, follow=True
            )
            rows.append((kind, ranks, result, time.monotonic() - begun))
    print(f"\nreports: {out}")
    for kind, ranks, result, seconds in rows:
        problems = result.problems()
        print(f"{kind} on {ranks} ranks: {result.report.get('counts')} in {seconds:.0f} s; {len(problems)} problems")
        for problem in problems:
            print(f"    {problem}")
    return 1 if any(result.problems() for _, _, result, _ in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
