"""A benchmark run as one of its ranks."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist

from torch_rmpi.bench import groups, operations, results, timing
from torch_rmpi.bench.operations import Step
from torch_rmpi.bench.progress import Bar, Progress

#: Operation, name of the dtype, bytes.
Case = tuple[str, str, int]


def steps(op: str, dtype: str, size: int, available: dict[str, dist.ProcessGroup | None]) -> dict[str, Step]:
    """What each backend does, for those that can."""
    made: dict[str, Step] = {}
    for name, group in available.items():
        if not groups.offers(name, op):
            continue
        if group is None:
            made[name] = operations.copy(operations.DTYPES[dtype], size)
            continue
        step = operations.OPERATIONS[op].prepare(group, operations.DTYPES[dtype], groups.size(name, op, size))
        if _works(step):
            made[name] = step
    return made


def _works(step: Callable[[int], object]) -> bool:
    """Whether the backend has the operation; all ranks find the same."""
    refusal = None
    try:
        step(0)
    except dist.DistError:
        raise
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        refusal = error
    works = torch.tensor(refusal is None)
    dist.all_reduce(works, dist.ReduceOp.MIN)
    if refusal is not None and dist.get_rank() == 0:
        sys.stderr.write(f"not measured: {str(refusal).splitlines()[0]}\n")
    return bool(works)


def open_groups(names: list[str]) -> dict[str, dist.ProcessGroup | None]:
    """A group for each backend that this torch has; None for memcpy."""
    available: dict[str, dist.ProcessGroup | None] = {}
    for name in names:
        try:
            available[name] = None if name == "memcpy" else groups.create(name)
        except groups.Unavailable as error:
            if dist.get_rank() == 0:
                sys.stderr.write(f"{name}: {error}\n")
    return available


def cases(ops: Iterable[str], dtypes: Iterable[str], sizes: Iterable[int], ranks: int) -> list[Case]:
    """All of them with each other, in sizes that hold whole elements."""
    return [
        (op, dtype, operations.whole(op, operations.DTYPES[dtype], size, ranks))
        for op, dtype, size in itertools.product(ops, dtypes, sizes)
    ]


def measure(
    wanted: Sequence[Case],
    available: dict[str, dist.ProcessGroup | None],
    seconds: float,
    rounds: int,
    progress: Progress,
) -> list[results.Result]:
    """Measures each case with each backend that can; about `seconds` for each of them. All ranks call it."""
    progress.expect(sum(groups.offers(name, op) for op, _, _ in wanted for name in available) * rounds)
    measured = []
    for op, dtype, size in wanted:
        progress.text = f"{op} {dtype} {results.human(size)}"
        able = steps(op, dtype, size, available)
        if not able:
            continue
        durations = timing.measure(able, seconds, rounds, progress.tick)
        measured += [
            results.summarize(op, dtype, size, backend, dist.get_world_size(), runs)
            for backend, runs in durations.items()
        ]
    return measured


def run(options: argparse.Namespace) -> int:
    """Measures what the options ask for; rank 0 reports."""
    torch.set_num_threads(1)
    dist.init_process_group("rmpi", init_method="mpi://")
    ranks, first = dist.get_world_size(), dist.get_rank() == 0
    progress = Bar() if first and options.progress == "always" else Progress()
    timing.settle()
    measured = measure(
        cases(options.ops, options.dtypes, options.sizes, ranks),
        open_groups(options.backends),
        options.seconds,
        options.rounds,
        progress,
    )
    progress.clear()
    if first:
        show(results.Report(ranks, results.machine(), measured), options)
    dist.destroy_process_group()
    return 0


def show(report: results.Report, options: argparse.Namespace) -> None:
    """Prints and writes what was asked for."""
    about = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    print(f"{report.ranks} ranks; {about}\n")
    print(results.table(report.results))
    for baseline in ("gloo", "mpi", "ucc"):
        mean = results.mean_ratio(report.results, baseline)
        if mean is not None:
            print(f"geometric mean of {baseline} / rmpi: {mean:.2f}x")
    if options.json is not None:
        report.save(options.json)
    if options.plot is not None:
        from torch_rmpi.bench import plot

        plot.save(report, options.plot)
    if options.compare is not None:
        print(f"\ncompared with {options.compare}:")
        print(results.comparison(report.results, results.load(options.compare).results))
    sys.stdout.flush()
