"""Trains a small network on handwritten digits with DistributedDataParallel over MPI, then trains the same network in
one process and compares.

    python -m torch_rmpi.run -n 2 train.py

Exits with an error if fewer than 97 % of the test images are recognised, or if the two trainings differ.
"""

import argparse
import os
import sys
from pathlib import Path

import digits
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from training import Epoch, network, train

MIN_ACCURACY = 0.97
MAX_DIFFERENCE = 1e-4


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--backend", default="rmpi", help="any backend of torch.distributed")
    parser.add_argument("--init-method", default="mpi://", help="env:// under torchrun")
    parser.add_argument("--output", type=Path, default=Path("digits.png"), help="where the learning curves go")
    parser.add_argument(
        "--progress", choices=["auto", "always", "never"], default="auto", help="progress bars; auto: on a terminal"
    )
    return parser.parse_args()


def largest_difference(left: nn.Module, right: nn.Module) -> float:
    """The largest difference of any parameter of two networks of the same kind."""
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def check(history: list[Epoch], difference: float) -> list[str]:
    """What is wrong with the result, if anything."""
    accuracy = history[-1].accuracy
    problems = []
    if accuracy < MIN_ACCURACY:
        problems.append(f"test accuracy {100 * accuracy:.2f} % is below {100 * MIN_ACCURACY:.0f} %")
    # Written so that NaN fails too.
    if not difference <= MAX_DIFFERENCE:
        problems.append(f"the trainings differ by {difference:.1e}, more than {MAX_DIFFERENCE:.0e}")
    return problems


def main() -> None:
    arguments = parse_arguments()
    dist.init_process_group(arguments.backend, init_method=arguments.init_method)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    # Ranks that together start more threads than there are cores slow each other down.
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks))
    data = digits.load()

    if rank == 0:
        # Matplotlib takes a second to load, and only rank 0 shows anything.
        from report import Report, plot

        bar = {"always": True, "never": False, "auto": sys.stdout.isatty()}[arguments.progress]
        print(f"Training on {len(data.train_images):,} images: {ranks} ranks, backend {arguments.backend}")
        report = Report(arguments.epochs, table=True, bar=bar)

    model = network()
    parallel = DistributedDataParallel(model) if ranks > 1 else model
    history = train(parallel, data, arguments.epochs, rank, ranks, report if rank == 0 else None)
    dist.destroy_process_group()
    if rank != 0:
        return

    print("Training the same network in one process", flush=True)
    alone = network()
    alone_history = train(alone, data, arguments.epochs, 0, 1, Report(arguments.epochs, table=False, bar=bar))

    difference = largest_difference(model, alone)
    print(f"Largest difference of any parameter: {difference:.1e} (limit {MAX_DIFFERENCE:.0e})")
    print(f"Test accuracy: {100 * history[-1].accuracy:.2f} % (limit {100 * MIN_ACCURACY:.0f} %)")
    plot(history, alone_history, ranks, arguments.output)
    print(f"Learning curves: {arguments.output.resolve()}", flush=True)

    if problems := check(history, difference):
        sys.exit("; ".join(problems))


if __name__ == "__main__":
    main()
