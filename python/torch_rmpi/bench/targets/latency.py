"""S1: what a small all-reduce costs over what torch itself costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch.distributed import distributed_c10d

from torch_rmpi.bench import session
from torch_rmpi.bench.progress import Progress
from torch_rmpi.bench.targets.measured import Measured
from torch_rmpi.bench.targets.target import Family, Goal, Scale, Target, microseconds

_SIZE = 4
#: One value decides, and it is short: it can be measured for longer than others.
_LONGER = 4


def _recorder(groups: Sequence[dist.ProcessGroup | None]) -> bool:
    """Whether torch's flight recorder hears of the groups' operations; False if this torch has none for plugins.

    Raises RuntimeError if it does not hear of all: then they do not compare, or torch does less than it does for users.
    """
    hooks = getattr(distributed_c10d._world, "pg_flight_recorder_hooks", None)
    if hooks is None:
        return False
    heard = [group in hooks for group in groups]
    if not all(heard):
        raise RuntimeError(f"torch's flight recorder is attached to {sum(heard)} of {len(heard)} groups, not to all")
    return True


def measure(scale: Scale, progress: Progress) -> Measured:
    """All-reduce of one float with rmpi, with a group that does nothing, and with Gloo."""
    available = session.open_groups(["rmpi", "noop", "gloo"])
    recorder = _recorder([available["rmpi"], available["noop"]])
    cases = session.cases(["all_reduce"], ["float32"], [_SIZE], dist.get_world_size())
    results = session.measure(cases, available, _LONGER * scale.seconds, _LONGER * scale.rounds, progress)
    return Measured(results, {"flight recorder": float(recorder)})


def _time(measured: Measured, backend: str) -> float:
    return measured.median("all_reduce", _SIZE, backend)


def _detail(measured: Measured) -> str:
    times = ", ".join(f"{name} {microseconds(_time(measured, name))}" for name in ("rmpi", "noop", "gloo"))
    recorder = "with" if measured.values["flight recorder"] else "without"
    return f"{times}; {recorder} flight recorder"


FAMILY = Family(
    name="latency",
    ranks=2,
    measure=measure,
    targets=(
        Target(
            id="S1",
            what="all_reduce of 4 B over the floor",
            rival="torch's FakeProcessGroup",
            goal=Goal(1.3),
            unit="x",
            value=lambda measured: _time(measured, "rmpi") / _time(measured, "noop"),
            detail=_detail,
        ),
    ),
)
