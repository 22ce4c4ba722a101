"""dist.broadcast: every rank ends with the root's tensor, bit for bit."""

import torch
import torch.distributed as dist
from multirank import multirank
from references import COUNTS, any_bits, assert_same_bits


@multirank(1, 2, 3, 4)
def test_from_every_root(ctx):
    for count in COUNTS:
        for root in range(ctx.size):
            tensor = any_bits(torch.float32, count, root, ctx.rank)
            dist.broadcast(tensor, root, group=ctx.group)
            assert_same_bits(tensor, any_bits(torch.float32, count, root, root))


@multirank(2, 4)
def test_large(ctx):
    count = 3 << 20
    tensor = any_bits(torch.int32, count, ctx.rank)
    dist.broadcast(tensor, ctx.size - 1, group=ctx.group)
    assert_same_bits(tensor, any_bits(torch.int32, count, ctx.size - 1))


@multirank(3, 4)
def test_group_src_counts_within_the_group(ctx):
    ranks = [1, 2]
    group = ctx.new_group(ranks)
    if ctx.rank in ranks:
        tensor = torch.full((4,), ctx.rank)
        dist.broadcast(tensor, group=group, group_src=1)
        assert tensor.tolist() == [2] * 4
        dist.broadcast(tensor.fill_(ctx.rank), src=1, group=group)
        assert tensor.tolist() == [1] * 4


@multirank(2, 4)
def test_many_in_flight(ctx):
    tensors = [torch.full((100,), float(ctx.rank * 1000 + index)) for index in range(50)]
    works = [
        dist.broadcast(tensor, index % ctx.size, group=ctx.group, async_op=True) for index, tensor in enumerate(tensors)
    ]
    for work in works:
        work.wait()
    for index, tensor in enumerate(tensors):
        assert torch.equal(tensor, torch.full((100,), float(index % ctx.size * 1000 + index)))
