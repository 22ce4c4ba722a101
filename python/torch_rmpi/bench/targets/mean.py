"""S4 and S6: the geometric mean, over operations and sizes, of how much faster than Gloo; 2 ranks, and 4."""

from __future__ import annotations

import torch.distributed as dist

from torch_rmpi.bench import results, session
from torch_rmpi.bench.progress import Progress
from torch_rmpi.bench.targets.measured import Measured, NotMeasured
from torch_rmpi.bench.targets.target import MIB, Family, Goal, Scale, Target, microseconds

#: As in torch: all_gather_into_tensor, reduce_scatter_tensor, all_to_all_single, and send with recv.
_OPS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "sendrecv")
_SIZES = (4, 1 << 10, 64 << 10, MIB, 16 * MIB, 64 * MIB)
_QUICK_SIZES = (4, 1 << 10, 64 << 10)
_SMALL = 1 << 10


def measure(scale: Scale, progress: Progress) -> Measured:
    """Every operation in every size with rmpi and Gloo."""
    available = session.open_groups(["rmpi", "gloo"])
    sizes = _QUICK_SIZES if scale.quick else _SIZES
    cases = session.cases(_OPS, ["float32"], sizes, dist.get_world_size())
    measured = Measured(session.measure(cases, available, scale.seconds, scale.rounds, progress))
    measured.require((*case, name) for case in cases for name in available)
    return measured


def _mean(measured: Measured) -> float:
    ratio = results.mean_ratio(measured.results, "gloo")
    if ratio is None:
        raise NotMeasured("nothing was measured with both backends")
    return ratio


def _mean_detail(measured: Measured) -> str:
    by_op = (
        (op, results.mean_ratio([result for result in measured.results if result.op == op], "gloo")) for op in _OPS
    )
    return ", ".join(f"{op} {ratio:.1f}x" for op, ratio in by_op if ratio is not None)


def _small(measured: Measured) -> list[results.Result]:
    """Slowest first."""
    small = [result for result in measured.results if result.backend == "rmpi" and result.bytes <= _SMALL]
    return sorted(small, key=lambda result: result.median, reverse=True)


def _slowest_detail(measured: Measured) -> str:
    return ", ".join(
        f"{result.op} {results.human(result.bytes)} {microseconds(result.median)}" for result in _small(measured)[:2]
    )


def _against_gloo(name: str, ranks: int, goal: Goal) -> Target:
    return Target(
        id=name,
        what=f"geometric mean of {len(_OPS)} operations x {len(_SIZES)} sizes, {ranks} ranks",
        rival="Gloo",
        goal=goal,
        unit="x",
        value=_mean,
        detail=_mean_detail,
    )


TWO_RANKS = Family(
    name="mean of 2 ranks",
    ranks=2,
    measure=measure,
    targets=(_against_gloo("S4", 2, Goal(10, at_least=True)),),
)
FOUR_RANKS = Family(
    name="mean of 4 ranks",
    ranks=4,
    measure=measure,
    targets=(
        _against_gloo("S6", 4, Goal(8, at_least=True)),
        Target(
            id="S6",
            what=f"slowest operation of up to {results.human(_SMALL)}, 4 ranks",
            rival="-",
            goal=Goal(100),
            unit=" us",
            value=lambda measured: _small(measured)[0].median,
            detail=_slowest_detail,
        ),
    ),
)
