"""S2 and S3: a large all-reduce over a copy of as many bytes, and that of half types over float32's."""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed as dist

from torch_rmpi.bench import operations, results, session, timing
from torch_rmpi.bench.operations import Step
from torch_rmpi.bench.progress import Progress
from torch_rmpi.bench.targets.measured import Measured
from torch_rmpi.bench.targets.target import MIB, Family, Goal, Scale, Target, microseconds

#: The largest comes first: S2 is measured there.
_SIZES = (64 * MIB, MIB)
_LONGER = 4


def _shared(size: int) -> dict[str, Step]:
    """All-reduce, and `dst.copy_(src)`, on the same tensors."""
    count = size // torch.float32.itemsize
    tensors = [torch.zeros(count) for _ in range(operations.rotation(size))]

    def pick(turn: int) -> torch.Tensor:
        return tensors[turn % len(tensors)]

    return {
        "rmpi": lambda turn: dist.all_reduce(pick(turn)),
        "memcpy": lambda turn: pick(turn).copy_(pick(turn + 1)),
    }


def measure(scale: Scale, progress: Progress) -> Measured:
    """All-reduce of both types, in turn; and in a second series beside copies."""
    ranks = dist.get_world_size()
    world = session.open_groups(["rmpi"])["rmpi"]
    assert world is not None
    measured = Measured()
    progress.expect((2 + 2 * len(_SIZES)) * scale.rounds)
    for size in _SIZES:
        used = size // 64 if scale.quick else size
        dtypes = {
            name: operations.OPERATIONS["all_reduce"].prepare(world, operations.DTYPES[name], used)
            for name in ("float32", "bfloat16")
        }
        progress.text = f"all_reduce {results.human(size)} by dtype"
        for dtype, durations in timing.measure(dtypes, _LONGER * scale.seconds, scale.rounds, progress.tick).items():
            # A series of its own: what S2 compares was measured in another one.
            own = results.summarize("all_reduce", dtype, size, "rmpi by dtype", ranks, durations)
            measured.results.append(own)
        del dtypes
        if size != _SIZES[0]:
            continue
        progress.text = f"all_reduce and copy_ {results.human(size)}"
        for name, durations in timing.measure(
            _shared(used), _LONGER * scale.seconds, scale.rounds, progress.tick
        ).items():
            measured.results.append(results.summarize("all_reduce", "float32", size, name, ranks, durations))
    return measured


def _over_copy(measured: Measured) -> float:
    return measured.median("all_reduce", _SIZES[0], "rmpi") / measured.median("all_reduce", _SIZES[0], "memcpy")


def _copy_detail(measured: Measured) -> str:
    own, copy = (measured.median("all_reduce", _SIZES[0], name) for name in ("rmpi", "memcpy"))
    return f"rmpi {microseconds(own)}, copy_ {microseconds(copy)}"


def _types(measured: Measured, size: int) -> tuple[float, float]:
    single, half = (measured.median("all_reduce", size, "rmpi by dtype", name) for name in ("float32", "bfloat16"))
    return single, half


def _half_over_single(size: int, measured: Measured) -> float:
    # As many bytes: the ratio of bytes per second is that of the times, turned over.
    single, half = _types(measured, size)
    return single / half


def _types_detail(size: int, measured: Measured) -> str:
    return ", ".join(
        f"{name} {size / time / 1e3:.2f} GB/s"
        for name, time in zip(("float32", "bfloat16"), _types(measured, size), strict=True)
    )


FAMILY = Family(
    name="bandwidth",
    ranks=2,
    measure=measure,
    targets=(
        Target(
            id="S2",
            what="all_reduce of 64 MiB float32 over copy_ of the same tensors",
            rival="dst.copy_(src) on both ranks at once",
            goal=Goal(1.1),
            unit="x",
            value=_over_copy,
            detail=_copy_detail,
        ),
        *(
            Target(
                id="S3",
                what=f"all_reduce of {results.human(size)}: bytes/s of bfloat16 over float32's",
                rival="all_reduce of float32",
                goal=Goal(0.95, at_least=True),
                unit="x",
                value=partial(_half_over_single, size),
                detail=partial(_types_detail, size),
            )
            for size in _SIZES
        ),
    ),
)
