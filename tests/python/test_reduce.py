"""dist.reduce: the root gets the result; nothing else is written."""

import torch
import torch.distributed as dist
from multirank import multirank
from references import COUNTS, assert_reduced, values


@multirank(1, 2, 3, 4)
def test_to_every_root(ctx):
    for count in COUNTS:
        for root in range(ctx.size):
            tensor = values(torch.float32, count, root, ctx.rank)
            dist.reduce(tensor, root, group=ctx.group)
            if ctx.rank == root:
                assert_reduced(tensor, [values(torch.float32, count, root, rank) for rank in range(ctx.size)], "SUM")


@multirank(2, 3, 4, gloo=False)
def test_other_ranks_keep_their_tensor(ctx):
    for count in COUNTS:
        tensor = values(torch.float32, count, ctx.rank)
        dist.reduce(tensor, 0, group=ctx.group)
        if ctx.rank != 0:
            assert torch.equal(tensor, values(torch.float32, count, ctx.rank))


@multirank(2, 4)
def test_integers_and_max(ctx):
    given = [values(torch.int64, 1000, rank) for rank in range(ctx.size)]
    for op, name in ((dist.ReduceOp.MAX, "MAX"), (dist.ReduceOp.SUM, "SUM")):
        tensor = given[ctx.rank].clone()
        dist.reduce(tensor, ctx.size - 1, op, group=ctx.group)
        if ctx.rank == ctx.size - 1:
            assert_reduced(tensor, given, name)


@multirank(2, 3, 4, gloo=False)
def test_half_rounds_once(ctx):
    epsilon = torch.finfo(torch.bfloat16).eps
    tensor = torch.full((5000,), 1.0 if ctx.rank == 0 else 0.26 * epsilon).to(torch.bfloat16)
    small = torch.tensor(0.26 * epsilon).to(torch.bfloat16).to(torch.float64)
    dist.reduce(tensor, 0, group=ctx.group)
    if ctx.rank == 0:
        expected = (1.0 + (ctx.size - 1) * small).to(torch.bfloat16)
        assert torch.equal(tensor, expected.expand(5000))


@multirank(3, 4)
def test_group_dst_counts_within_the_group(ctx):
    ranks = [1, 2]
    group = ctx.new_group(ranks)
    if ctx.rank in ranks:
        tensor = torch.full((4,), ctx.rank)
        dist.reduce(tensor, group=group, group_dst=1)
        if ctx.rank == 2:
            assert tensor.tolist() == [3] * 4
