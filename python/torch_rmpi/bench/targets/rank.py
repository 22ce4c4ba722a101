"""One rank of a job that measures a family of targets."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from torch_rmpi.bench import results, timing
from torch_rmpi.bench.progress import Lines, Progress
from torch_rmpi.bench.targets import catalogue
from torch_rmpi.bench.targets.target import Scale


def main() -> int:
    """Measures; rank 0 writes the result."""
    parser = argparse.ArgumentParser(prog="python -m torch_rmpi.bench.targets.rank")
    parser.add_argument("family")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    family = catalogue.family(options.family)
    if not family.computes:
        torch.set_num_threads(1)
    dist.init_process_group("rmpi", init_method="mpi://")
    first = dist.get_rank() == 0
    scale = Scale(options.seconds, options.rounds, options.quick)
    timing.settle()
    measured = family.measure(scale, Lines() if first else Progress())
    if first:
        measured.machine = results.machine()
        measured.save(options.output, family.name)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
