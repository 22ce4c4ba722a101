"""S5: the same MPI's blocking collectives, called from C, stand in for PyTorch's in-tree MPI backend.

That backend exists only where PyTorch was built from source, and adds its own cost to these calls. Python calls cannot
be as short as C's, so below 64 KiB what counts is what rmpi adds to torch's own floor.
"""

from __future__ import annotations

import torch.distributed as dist

from torch_rmpi.bench import results, session
from torch_rmpi.bench.progress import Progress
from torch_rmpi.bench.targets import mpi_program
from torch_rmpi.bench.targets.measured import Measured, NotMeasured, median
from torch_rmpi.bench.targets.mpi_program import MPI
from torch_rmpi.bench.targets.target import MIB, Family, Goal, Jobs, Scale, Target, microseconds

_OPS = ("all_reduce", "broadcast", "all_to_all")
_SIZES = (4, 1 << 10, 16 << 10, 64 << 10, MIB, 16 * MIB, 64 * MIB)
_QUICK_SIZES = (4, 64 << 10)
#: From here on, rmpi has to be ahead.
_LARGE = 64 << 10
_RANKS = 2
#: How often the jobs of C and of Python take turns.
_BLOCKS, _QUICK_BLOCKS = 3, 1


def _sizes(scale: Scale) -> tuple[int, ...]:
    return _QUICK_SIZES if scale.quick else _SIZES


def _blocks(scale: Scale) -> int:
    return _QUICK_BLOCKS if scale.quick else _BLOCKS


def run(family: Family, jobs: Jobs) -> Measured:
    """Jobs of C and of Python, in turn: separate processes cannot be interleaved more finely."""
    program, output = mpi_program.build(jobs.folder), jobs.folder / "mpi_baseline.txt"
    blocks, sizes = _blocks(jobs.scale), _sizes(jobs.scale)
    words = [str(program), str(output), str(jobs.scale.seconds / blocks), str(family.ranks), *map(str, sizes)]
    jobs.expect(2 * blocks)
    parts = []
    for _ in range(blocks):
        # What an earlier job has left there must not pass for this one's.
        output.unlink(missing_ok=True)
        jobs.program(words, family.ranks)
        parts += [mpi_program.read(output, family.ranks), jobs.measure(family)]
    measured = median(parts)
    cases = session.cases(_OPS, ["float32"], sizes, family.ranks)
    measured.require((*case, name) for case in cases for name in ("rmpi", "noop", MPI))
    return measured


def measure(scale: Scale, progress: Progress) -> Measured:
    """The same from Python with rmpi, and with a group that does nothing."""
    cases = session.cases(_OPS, ["float32"], _sizes(scale), dist.get_world_size())
    blocks = _blocks(scale)
    rounds = -(-scale.rounds // blocks)
    available = session.open_groups(["rmpi", "noop"])
    return Measured(session.measure(cases, available, scale.seconds / blocks, rounds, progress))


def _times(measured: Measured, large: bool) -> dict[tuple[str, int], dict[str, float]]:
    """By operation and size: microseconds of rmpi, of a group that does nothing (the floor), and of MPI in C."""
    times: dict[tuple[str, int], dict[str, float]] = {}
    for result in measured.results:
        if (result.bytes >= _LARGE) == large and result.backend in ("rmpi", "noop", MPI):
            times.setdefault((result.op, result.bytes), {})[result.backend] = result.median
    return times


def _ahead(measured: Measured) -> list[tuple[float, str, int]]:
    """How much faster than MPI in C from 64 KiB up; the smallest first."""
    return sorted((time[MPI] / time["rmpi"], op, size) for (op, size), time in _times(measured, large=True).items())


def _added(measured: Measured) -> list[tuple[float, str, int]]:
    """Below 64 KiB: what rmpi takes beyond MPI in C and the floor, in microseconds; the largest first."""
    return sorted(
        (
            (time["rmpi"] - time[MPI] - time["noop"], op, size)
            for (op, size), time in _times(measured, large=False).items()
        ),
        reverse=True,
    )


def _ahead_of_python(measured: Measured) -> list[tuple[float, str, int]]:
    """The same over MPI in C and the floor together: what a backend that calls it from Python needs at least."""
    return sorted(
        ((time[MPI] + time["noop"]) / time["rmpi"], op, size)
        for (op, size), time in _times(measured, large=True).items()
    )


def _python_detail(measured: Measured) -> str:
    _, op, size = _ahead_of_python(measured)[0]
    time = _times(measured, large=True)[op, size]
    both = f"{MPI} {microseconds(time[MPI])}, the floor {microseconds(time['noop'])}"
    return f"{op} {results.human(size)}: rmpi {microseconds(time['rmpi'])}, {both}"


def _lead_detail(measured: Measured) -> str:
    _, op, size = _ahead(measured)[0]
    time = _times(measured, large=True)[op, size]
    return f"{op} {results.human(size)}: rmpi {microseconds(time['rmpi'])}, {MPI} {microseconds(time[MPI])}"


def _addition_detail(measured: Measured) -> str:
    _, op, size = _added(measured)[0]
    time = _times(measured, large=False)[op, size]
    return (
        f"{op} {results.human(size)}: rmpi {microseconds(time['rmpi'])}, the floor {microseconds(time['noop'])}, "
        f"rmpi less the floor {microseconds(time['rmpi'] - time['noop'])}, {MPI} {microseconds(time[MPI])}"
    )


def _smallest_lead(measured: Measured) -> float:
    return _ahead(measured)[0][0]


def _largest_addition(measured: Measured) -> float:
    return _added(measured)[0][0]


def _mean(measured: Measured) -> float:
    ratio = results.mean_ratio(measured.results, MPI)
    if ratio is None:
        raise NotMeasured("nothing was measured with both")
    return ratio


def _mean_detail(measured: Measured) -> str:
    return f"{', '.join(_OPS)}; {len(_times(measured, large=True)) + len(_times(measured, large=False))} values"


_RIVAL = "MPI_Allreduce, MPI_Bcast, MPI_Alltoall from C"
FAMILY = Family(
    name="MPI in C",
    ranks=_RANKS,
    measure=measure,
    run=run,
    targets=(
        Target(
            id="S5",
            what="from 64 KiB up: smallest lead over MPI in C",
            rival=_RIVAL,
            goal=Goal(1, at_least=True),
            unit="x",
            value=_smallest_lead,
            detail=_lead_detail,
        ),
        Target(
            id="S5",
            what="from 64 KiB up: smallest lead over MPI in C and the floor",
            rival=_RIVAL,
            goal=None,
            unit="x",
            value=lambda measured: _ahead_of_python(measured)[0][0],
            detail=_python_detail,
        ),
        Target(
            id="S5",
            what="below 64 KiB: most that rmpi takes beyond MPI in C and the floor",
            rival=_RIVAL,
            goal=Goal(2),
            unit=" us",
            value=_largest_addition,
            detail=_addition_detail,
        ),
        Target(
            id="S5",
            what="geometric mean over MPI in C, all sizes",
            rival=_RIVAL,
            goal=None,
            unit="x",
            value=_mean,
            detail=_mean_detail,
        ),
    ),
)
