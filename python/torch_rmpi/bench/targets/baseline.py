"""S5: the same MPI's blocking collectives, called from C, stand in for PyTorch's in-tree MPI backend.

That backend exists only where PyTorch was built from source, and adds its own cost to these calls. Python calls cannot
be as short as C's, so below 64 KiB what counts is what rmpi adds to torch's own floor.
"""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path

import torch.distributed as dist

from torch_rmpi import _mpiexec
from torch_rmpi.bench import results, session
from torch_rmpi.bench.progress import Progress
from torch_rmpi.bench.targets.measured import Measured, median
from torch_rmpi.bench.targets.target import MIB, Family, Goal, Jobs, Scale, Target, microseconds

#: The name of the stand-in among the backends.
MPI = "MPI in C"
_OPS = ("all_reduce", "broadcast", "all_to_all")
_SIZES = (4, 1 << 10, 16 << 10, 64 << 10, MIB, 16 * MIB, 64 * MIB)
_QUICK_SIZES = (4, 64 << 10)
#: From here on, rmpi has to be ahead.
_LARGE = 64 << 10
_RANKS = 2
_SOURCE = Path(__file__).with_name("mpi_baseline.c")
#: How often the jobs of C and of Python take turns.
_BLOCKS, _QUICK_BLOCKS = 3, 1


def _sizes(scale: Scale) -> tuple[int, ...]:
    return _QUICK_SIZES if scale.quick else _SIZES


def _compile(folder: Path) -> Path:
    """The program, built with the compiler that belongs to the launcher's MPI."""
    beside = Path(_mpiexec.find().command[0]).with_name("mpicc")
    compiler = shutil.which(str(beside)) or shutil.which("mpicc")
    if compiler is None:
        raise RuntimeError(f"there is no mpicc, neither {beside} nor on PATH, to build {_SOURCE.name} with")
    program = folder / "mpi_baseline"
    words = [compiler, "-O2", "-std=gnu11", "-o", str(program), str(_SOURCE)]
    built = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    if built.returncode != 0:
        raise RuntimeError(f"{' '.join(words)} failed:\n{built.stdout}{built.stderr}")
    return program


def _read(path: Path) -> Measured:
    """What the program has written."""
    measured = Measured()
    for line in path.read_text().splitlines():
        op, size, *durations = line.split()
        runs = [int(duration) for duration in durations]
        measured.results.append(results.summarize(op, "float32", int(size), MPI, _RANKS, runs))
    return measured


def run(family: Family, jobs: Jobs) -> Measured:
    """Jobs of C and of Python, in turn: separate processes cannot be interleaved more finely."""
    program, output = _compile(jobs.folder), jobs.folder / "mpi_baseline.txt"
    blocks = _QUICK_BLOCKS if jobs.scale.quick else _BLOCKS
    sizes = [str(size) for size in _sizes(jobs.scale)]
    parts = []
    for _ in range(blocks):
        jobs.program([str(program), str(output), str(jobs.scale.seconds / blocks), *sizes], family.ranks)
        parts += [_read(output), jobs.measure(family)]
    return median(parts)


def measure(scale: Scale, progress: Progress) -> Measured:
    """The same from Python with rmpi, and with a group that does nothing."""
    cases = session.cases(_OPS, ["float32"], _sizes(scale), dist.get_world_size())
    blocks = _QUICK_BLOCKS if scale.quick else _BLOCKS
    rounds = -(-scale.rounds // blocks)
    available = session.open_groups(["rmpi", "noop"])
    return Measured(session.measure(cases, available, scale.seconds / blocks, rounds, progress))


def _times(measured: Measured, large: bool) -> dict[tuple[str, int], dict[str, float]]:
    """By operation and size: microseconds of rmpi, of MPI in C and of the floor."""
    times: dict[tuple[str, int], dict[str, float]] = {}
    for result in measured.results:
        if (result.bytes >= _LARGE) == large:
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


def _detail(large: bool, measured: Measured) -> str:
    _, op, size = (_ahead if large else _added)(measured)[0]
    time = _times(measured, large)[op, size]
    names = ("rmpi", MPI) if large else ("rmpi", MPI, "noop")
    return f"{op} {results.human(size)}: " + ", ".join(f"{name} {microseconds(time[name])}" for name in names)


def _smallest_lead(measured: Measured) -> float:
    return _ahead(measured)[0][0]


def _largest_addition(measured: Measured) -> float:
    return _added(measured)[0][0]


def _mean(measured: Measured) -> float:
    ratio = results.mean_ratio(measured.results, MPI)
    if ratio is None:
        raise KeyError("nothing was measured with both")
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
            detail=partial(_detail, True),
        ),
        Target(
            id="S5",
            what="below 64 KiB: most that rmpi takes beyond MPI in C and the floor",
            rival=_RIVAL,
            goal=Goal(2),
            unit=" us",
            value=_largest_addition,
            detail=partial(_detail, False),
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
