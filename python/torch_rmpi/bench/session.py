"""A benchmark run as one of its ranks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist

from torch_rmpi.bench import groups, operations, results, timing
from torch_rmpi.bench.operations import Step

_BAR = 30


class Bar:
    """A progress bar on standard error."""

    def __init__(self, total: int, shown: bool) -> None:
        self.total, self.shown, self.done = total, shown, 0
        self.text = ""

    def tick(self) -> None:
        """One part is done."""
        self.done += 1
        if self.shown:
            filled = _BAR * self.done // self.total
            bar = "#" * filled + "." * (_BAR - filled)
            sys.stderr.write(f"\r[{bar}] {100 * self.done // self.total:3d} %  {self.text:<40.40}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Makes room for other lines."""
        if self.shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def steps(op: str, dtype: str, size: int, available: dict[str, dist.ProcessGroup | None]) -> dict[str, Step]:
    """What each backend does, for those that can."""
    made: dict[str, Step] = {}
    for name, group in available.items():
        if group is None:
            made[name] = operations.copy(operations.DTYPES[dtype], size)
            continue
        step = operations.OPERATIONS[op].prepare(group, operations.DTYPES[dtype], size)
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


def run(options: argparse.Namespace) -> int:
    """Measures what the options ask for; rank 0 reports."""
    torch.set_num_threads(1)
    dist.init_process_group("rmpi", init_method="mpi://")
    ranks, first = dist.get_world_size(), dist.get_rank() == 0
    available = open_groups(options.backends)
    report = results.Report(ranks, results.machine())
    cases = [
        (op, dtype, operations.whole(op, operations.DTYPES[dtype], size, ranks))
        for op in options.ops
        for dtype in options.dtypes
        for size in options.sizes
    ]
    bar = Bar(len(cases) * len(available) * options.rounds, first and options.progress == "always")
    for op, dtype, size in cases:
        bar.text = f"{op} {dtype} {results.human(size)}"
        measured = timing.measure(steps(op, dtype, size, available), options.seconds, options.rounds, bar.tick)
        report.results += [
            results.summarize(op, dtype, size, backend, ranks, durations) for backend, durations in measured.items()
        ]
    bar.clear()
    if first:
        show(report, options)
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
