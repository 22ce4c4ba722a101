"""dist.scatter: every rank gets its tensor of the root's list."""

import torch
import torch.distributed as dist
from multirank import multirank
from references import COUNTS, any_bits, assert_same_bits


def given(count, root, rank):
    return any_bits(torch.float32, count, 13, root, rank)


@multirank(1, 2, 3, 4)
def test_from_every_root(ctx):
    for count in COUNTS:
        for root in range(ctx.size):
            inputs = [given(count, root, rank) for rank in range(ctx.size)] if ctx.rank == root else None
            output = torch.zeros(count)
            dist.scatter(output, inputs, root, group=ctx.group)
            assert_same_bits(output, given(count, root, ctx.rank))


@multirank(2, 4)
def test_large(ctx):
    count = 1 << 19
    inputs = [given(count, 0, rank) for rank in range(ctx.size)] if ctx.rank == 0 else None
    output = torch.zeros(count)
    dist.scatter(output, inputs, 0, group=ctx.group)
    assert_same_bits(output, given(count, 0, ctx.rank))


@multirank(3, 4)
def test_group_src_counts_within_the_group(ctx):
    ranks = [1, 2]
    group = ctx.new_group(ranks)
    if ctx.rank in ranks:
        inputs = [given(5, 2, rank) for rank in ranks] if ctx.rank == 2 else None
        output = torch.zeros(5)
        dist.scatter(output, inputs, group=group, group_src=1)
        assert_same_bits(output, given(5, 2, ctx.rank))


@multirank(2, 4)
def test_scatter_undoes_gather(ctx):
    tensor = torch.randn(17)
    parts = [torch.zeros(17) for _ in range(ctx.size)] if ctx.rank == 0 else None
    dist.gather(tensor, parts, 0, group=ctx.group)
    output = torch.zeros(17)
    dist.scatter(output, parts, 0, group=ctx.group)
    assert_same_bits(output, tensor)
