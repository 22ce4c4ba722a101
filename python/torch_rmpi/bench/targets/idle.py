"""S7: the processor time that a rank uses while it waits for a late one."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist

from torch_rmpi.bench.progress import Progress
from torch_rmpi.bench.targets.measured import Measured
from torch_rmpi.bench.targets.target import Family, Goal, Scale, Target

_LATE, _LATE_QUICK = 5.0, 0.3


def _waits(tensor: torch.Tensor, late: int) -> dict[str, Callable[[], object]]:
    def message() -> None:
        if dist.get_rank() == late:
            dist.send(tensor, 0)
        elif dist.get_rank() == 0:
            dist.recv(tensor, late)

    def asynchronous() -> None:
        work = dist.all_reduce(tensor, async_op=True)
        assert work is not None
        work.wait()

    return {"all_reduce": lambda: dist.all_reduce(tensor), "recv": message, "wait()": asynchronous}


def measure(scale: Scale, progress: Progress) -> Measured:
    """The last rank comes late to each; rank 0 measures the time of all its threads."""
    seconds = _LATE_QUICK if scale.quick else _LATE
    late = dist.get_world_size() - 1
    measured = Measured(values={"seconds": seconds})
    waits = _waits(torch.zeros(1), late)
    progress.expect(len(waits))
    for name, wait in waits.items():
        progress.text = f"late {name}"
        # What is set up once is not waiting.
        wait()
        dist.barrier()
        if dist.get_rank() == late:
            time.sleep(seconds)
        begun, used = time.perf_counter(), time.process_time()
        wait()
        measured.values[name] = 100 * (time.process_time() - used) / (time.perf_counter() - begun)
        progress.tick()
    return measured


def _value(name: str, measured: Measured) -> float:
    return measured.values[name]


def _detail(name: str, measured: Measured) -> str:
    seconds = measured.values["seconds"]
    return f"{measured.values[name] / 100 * seconds * 1e3:.0f} ms of processor time in {seconds:g} s"


FAMILY = Family(
    name="idle",
    ranks=2,
    measure=measure,
    targets=tuple(
        Target(
            id="S7",
            what=f"processor time of a rank whose {name} waits 5 s",
            rival="-",
            goal=Goal(3),
            unit=" %",
            value=partial(_value, name),
            detail=partial(_detail, name),
        )
        for name in ("all_reduce", "recv", "wait()")
    ),
)
