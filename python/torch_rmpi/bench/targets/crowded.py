"""Small operations of far more ranks than cores: a rank that waits must let others run."""

from __future__ import annotations

import torch.distributed as dist

from torch_rmpi.bench import operations, results, session
from torch_rmpi.bench.progress import Progress
from torch_rmpi.bench.targets.measured import Measured
from torch_rmpi.bench.targets.target import Family, Goal, Scale, Target, microseconds

_RANKS = 16
_SIZE = 4
#: Each in its smallest size; the two forms of all_reduce are one operation.
_OPS = tuple(op for op in operations.OPERATIONS if op != "all_reduce_max")


def measure(scale: Scale, progress: Progress) -> Measured:
    """Every operation in its smallest size."""
    available = session.open_groups(["rmpi"])
    cases = session.cases(_OPS, ["float32"], [_SIZE], dist.get_world_size())
    measured = Measured(session.measure(cases, available, scale.seconds, scale.rounds, progress))
    measured.require((*case, "rmpi") for case in cases)
    return measured


def _slowest_first(measured: Measured) -> list[results.Result]:
    return sorted(measured.results, key=lambda result: result.median, reverse=True)


FAMILY = Family(
    name=f"{_RANKS} ranks",
    ranks=_RANKS,
    measure=measure,
    targets=(
        Target(
            id="W16",
            what=f"slowest of {len(_OPS)} operations in their smallest size, {_RANKS} ranks",
            rival="-",
            goal=Goal(20),
            unit=" ms",
            value=lambda measured: _slowest_first(measured)[0].median / 1e3,
            detail=lambda measured: ", ".join(
                f"{result.op} {microseconds(result.median)}" for result in _slowest_first(measured)[:3]
            ),
        ),
    ),
)
