"""Estimates of how long collectives take: nothing moves, and all ranks get the same number."""

import pytest
import torch
import torch.distributed as dist
from multirank import multirank
from versions import VERSION, sequence_number

CPU = torch.device("cpu")


def estimated(group, function):
    """Microseconds."""
    with dist.distributed_c10d._time_estimator(group, CPU) as estimate:
        function()
    return estimate.estimated_time


def operations(ctx, elements):
    """A call of each operation, with tensors of so many elements."""
    tensor = torch.ones(elements)
    block = torch.ones(elements // ctx.size)
    parts = [block.clone() for _ in range(ctx.size)]
    root = {"gather_list": parts} if ctx.rank == 0 else {}
    peer = (ctx.rank + 1) % ctx.size
    return {
        "all_reduce": lambda: dist.all_reduce(tensor, group=ctx.group),
        "reduce": lambda: dist.reduce(tensor, 0, group=ctx.group),
        "broadcast": lambda: dist.broadcast(tensor, 0, group=ctx.group),
        "all_gather": lambda: dist.all_gather_into_tensor(tensor, block, group=ctx.group),
        "gather": lambda: dist.gather(block, group=ctx.group, **root),
        "scatter": lambda: dist.scatter(block, parts if ctx.rank == 0 else None, group=ctx.group),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(block, tensor, group=ctx.group),
        "all_to_all": lambda: dist.all_to_all_single(tensor.clone(), tensor, group=ctx.group),
        "send": lambda: dist.send(tensor, peer, group=ctx.group),
        "barrier": lambda: dist.barrier(ctx.group),
    }


@multirank(2, 4, gloo=False)
def test_every_operation_has_one_and_all_ranks_the_same(ctx):
    backend = ctx.group._get_backend(CPU)
    assert backend._supports_time_estimate if VERSION >= (2, 15) else backend.supports_time_estimate
    times = {}
    for elements in (256, 1 << 18):
        for name, function in operations(ctx, elements).items():
            times[name, elements] = ctx.same(estimated(ctx.group, function))
    assert all(time > 0 for time in times.values()), times
    assert all(times[name, 1 << 18] >= times[name, 256] for name, _ in times), times


@multirank(2, gloo=False)
def test_of_several_operations_the_sum(ctx):
    function = operations(ctx, 1 << 10)["broadcast"]
    once = estimated(ctx.group, function)
    assert estimated(ctx.group, lambda: [function() for _ in range(3)]) == pytest.approx(3 * once)


@multirank(1, 3, gloo=False)
def test_of_a_message_where_a_rank_has_no_partner(ctx):
    def operations():
        dist.all_reduce(torch.ones(100), group=ctx.group)
        if ctx.size > 1:
            dist.send(torch.ones(100), (ctx.rank + 1) % ctx.size, group=ctx.group)

    assert ctx.same(estimated(ctx.group, operations)) > 0


@multirank(2, gloo=False)
def test_nothing_moves(ctx):
    tensor = torch.full((10,), float(ctx.rank))
    dist.barrier(ctx.group)
    number = None

    def both():
        nonlocal number
        number = sequence_number(ctx.group)
        work = dist.all_reduce(tensor, group=ctx.group, async_op=True)
        assert work.is_completed()
        # Nobody sends.
        dist.recv(tensor, 1 - ctx.rank, group=ctx.group)

    estimated(ctx.group, both)
    assert tensor.tolist() == [ctx.rank] * 10
    assert sequence_number(ctx.group) == number
    dist.all_reduce(tensor, group=ctx.group)
    assert tensor.tolist() == [1.0] * 10


@multirank(2, gloo=False)
def test_end_without_start(ctx):
    with pytest.raises(RuntimeError, match="without startTimeEstimate"):
        ctx.group._get_backend(CPU)._end_time_estimate()
