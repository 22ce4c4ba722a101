"""Measuring one operation with several backends: turn by turn, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist

from torch_rmpi.bench.operations import Step

_WARM_UP = 3
_FEWEST, _MOST = 2, 5_000
#: Seconds of calls before anything is measured: the first tenths of a second of a process often run at half the speed.
_SETTLING = 1.0


def settle() -> None:
    """Keeps all ranks busy, until their cores are as fast as they will be. All ranks call it."""
    until, over = time.perf_counter() + _SETTLING, torch.tensor(False)
    while not over:
        over.fill_(time.perf_counter() >= until)
        dist.all_reduce(over, dist.ReduceOp.MAX)


def slowest(durations: list[int]) -> list[int]:
    """Of each run, the duration on the slowest rank; every rank has as many."""
    own = torch.tensor(durations, dtype=torch.int64)
    dist.all_reduce(own, dist.ReduceOp.MAX)
    return own.tolist()


def _runs(step: Step, count: int, first: int) -> list[int]:
    durations = array("q", bytes(8 * count))
    clock = time.perf_counter_ns
    for index in range(count):
        begun = clock()
        step(first + index)
        durations[index] = clock() - begun
    return durations.tolist()


def _count(step: Step, seconds: float) -> int:
    """How many runs take about so long; the same number on every rank."""
    _runs(step, _WARM_UP, 0)
    once = max(1, sorted(slowest(_runs(step, _WARM_UP, 0)))[_WARM_UP // 2])
    count = torch.tensor(max(_FEWEST, min(_MOST, int(seconds * 1e9 / once))))
    dist.broadcast(count, 0)
    return int(count)


def measure(
    steps: Mapping[str, Step], seconds: float, rounds: int, tick: Callable[[], None] = lambda: None
) -> dict[str, list[int]]:
    """Nanoseconds of each run of each step, on the slowest rank. All ranks call it with the same names."""
    counts = {}
    for name, step in steps.items():
        dist.barrier()
        counts[name] = _count(step, seconds / rounds)
    durations: dict[str, list[int]] = {name: [] for name in steps}
    order = list(steps)
    for turn in range(rounds):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            dist.barrier()
            durations[name] += slowest(_runs(steps[name], counts[name], len(durations[name])))
            tick()
    return durations
