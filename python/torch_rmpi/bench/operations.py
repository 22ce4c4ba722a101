"""What is measured: each operation on buffers of its own, through the public functions of torch.distributed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

#: Runs the operation once, on the buffers with this number.
Step = Callable[[int], object]

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
}

#: Buffers are rotated among at most so many, and so many bytes.
_MOST_BUFFERS = 8
_MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class Operation:
    """An operation, and how its bandwidth is counted."""

    #: Makes the buffers for elements of a dtype and a number of bytes, which `whole` has given.
    prepare: Callable[[dist.ProcessGroup, torch.dtype, int], Step]
    #: Bytes that algbw counts, as a multiple of the size, for a number of ranks.
    data: Callable[[int], float]
    #: busbw over algbw, for a number of ranks.
    bus: Callable[[int], float]


def rotation(size: int) -> int:
    """How many sets of buffers of so many bytes are used in turn."""
    return max(2, min(_MOST_BUFFERS, _MOST_BYTES // max(size, 1)))


def whole(op: str, dtype: torch.dtype, size: int, ranks: int) -> int:
    """The bytes that are moved where `size` is asked for: whole elements, of all_to_all at least one for each rank."""
    unit = dtype.itemsize * (ranks if op == "all_to_all" else 1)
    return max(1, size // unit) * unit


def _tensors(dtype: torch.dtype, count: int, largest: int = 0) -> list[Tensor]:
    """Tensors of so many elements; as many as there are of `largest` elements in the same operation."""
    # Ones stay ones or grow slowly: no denormal or infinite number slows anything down.
    return [torch.ones(count, dtype=dtype) for _ in range(rotation(max(count, largest) * dtype.itemsize))]


def _all_reduce(group: dist.ProcessGroup, dtype: torch.dtype, size: int) -> Step:
    # MAX and SUM cost the same, and with MAX the values stay what they are.
    tensors = _tensors(dtype, size // dtype.itemsize)
    return lambda turn: dist.all_reduce(tensors[turn % len(tensors)], dist.ReduceOp.MAX, group=group)


def _all_reduce_sum(group: dist.ProcessGroup, dtype: torch.dtype, size: int) -> Step:
    tensors = [tensor.zero_() for tensor in _tensors(dtype, size // dtype.itemsize)]
    return lambda turn: dist.all_reduce(tensors[turn % len(tensors)], group=group)


def _broadcast(group: dist.ProcessGroup, dtype: torch.dtype, size: int) -> Step:
    tensors = _tensors(dtype, size // dtype.itemsize)
    return lambda turn: dist.broadcast(tensors[turn % len(tensors)], group_src=0, group=group)


def _reduce(group: dist.ProcessGroup, dtype: torch.dtype, size: int) -> Step:
    tensors = [tensor.zero_() for tensor in _tensors(dtype, size // dtype.itemsize)]
    return lambda turn: dist.reduce(tensors[turn % len(tensors)], group_dst=0, group=group)


def _all_gather(group: dist.ProcessGroup, dtype: torch.dtype, size: int) -> Step:
    count = size // dtype.itemsize
    total = count * group.size()
    inputs, outputs = _tensors(dtype, count, total), _tensors(dtype, total)
    return lambda turn: dist.all_gather_into_tensor(
        outputs[turn % len(outputs)], inputs[turn % len(inputs)], group=group
    )


def _reduce_scatter(group: dist.ProcessGroup, dtype: torch.dtype, size: int) -> Step:
    count = size // dtype.itemsize
    total = count * group.size()
    inputs, outputs = _tensors(dtype, total), _tensors(dtype, count, total)
    return lambda turn: dist.reduce_scatter_tensor(
        outputs[turn % len(outputs)], inputs[turn % len(inputs)], group=group
    )


def _gather(group: dist.ProcessGroup, dtype: torch.dtype, size: int) -> Step:
    count = size // dtype.itemsize
    inputs, blocks = _tensors(dtype, count, count * group.size()), _blocks(group, dtype, count)
    return lambda turn: dist.gather(
        inputs[turn % len(inputs)], None if blocks is None else blocks[turn % len(blocks)], group=group, group_dst=0
    )


def _scatter(group: dist.ProcessGroup, dtype: torch.dtype, size: int) -> Step:
    count = size // dtype.itemsize
    outputs, blocks = _tensors(dtype, count, count * group.size()), _blocks(group, dtype, count)
    return lambda turn: dist.scatter(
        outputs[turn % len(outputs)], None if blocks is None else blocks[turn % len(blocks)], group=group, group_src=0
    )


def _blocks(group: dist.ProcessGroup, dtype: torch.dtype, count: int) -> list[list[Tensor]] | None:
    """What the root has: so many elements for each rank, in each set of buffers."""
    if group.rank() != 0:
        return None
    return [list(tensor.split(count)) for tensor in _tensors(dtype, count * group.size())]


def _all_to_all(group: dist.ProcessGroup, dtype: torch.dtype, size: int) -> Step:
    count = size // dtype.itemsize
    inputs, outputs = _tensors(dtype, count), _tensors(dtype, count)
    return lambda turn: dist.all_to_all_single(outputs[turn % len(outputs)], inputs[turn % len(inputs)], group=group)


def _sendrecv(group: dist.ProcessGroup, dtype: torch.dtype, size: int) -> Step:
    tensors = _tensors(dtype, size // dtype.itemsize)
    rank = group.rank()
    peer = rank ^ 1
    if peer >= group.size():
        return lambda turn: None

    def send(tensor: Tensor) -> None:
        dist.send(tensor, group=group, group_dst=peer)

    def receive(tensor: Tensor) -> None:
        dist.recv(tensor, group=group, group_src=peer)

    first, second = (send, receive) if rank < peer else (receive, send)

    def step(turn: int) -> None:
        first(tensors[turn % len(tensors)])
        second(tensors[turn % len(tensors)])

    return step


def _barrier(group: dist.ProcessGroup, dtype: torch.dtype, size: int) -> Step:
    del dtype, size
    return lambda turn: dist.barrier(group=group)


def copy(dtype: torch.dtype, size: int) -> Step:
    """`dst.copy_(src)` of so many bytes."""
    count = size // dtype.itemsize
    sources, targets = _tensors(dtype, count), _tensors(dtype, count)
    return lambda turn: targets[turn % len(targets)].copy_(sources[turn % len(sources)])


def _one(ranks: int) -> float:
    del ranks
    return 1.0


def _others(ranks: int) -> float:
    return (ranks - 1) / ranks


OPERATIONS = {
    "all_reduce": Operation(_all_reduce_sum, _one, lambda ranks: 2 * _others(ranks)),
    "all_reduce_max": Operation(_all_reduce, _one, lambda ranks: 2 * _others(ranks)),
    "reduce": Operation(_reduce, _one, _one),
    "broadcast": Operation(_broadcast, _one, _one),
    "all_gather": Operation(_all_gather, float, _others),
    "reduce_scatter": Operation(_reduce_scatter, float, _others),
    "gather": Operation(_gather, float, _others),
    "scatter": Operation(_scatter, float, _others),
    "all_to_all": Operation(_all_to_all, _one, _others),
    "sendrecv": Operation(_sendrecv, _one, _one),
    "barrier": Operation(_barrier, lambda ranks: 0.0, _one),
}
