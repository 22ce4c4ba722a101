"""dist.gather and gather_single: the root gets every rank's tensor."""

import torch
import torch.distributed as dist
from multirank import multirank
from references import COUNTS, any_bits, assert_same_bits
from versions import since


def given(count, rank):
    return any_bits(torch.float32, count, 12, rank)


@multirank(1, 2, 3, 4)
def test_list_to_every_root(ctx):
    for count in COUNTS:
        for root in range(ctx.size):
            outputs = [torch.zeros(count) for _ in range(ctx.size)] if ctx.rank == root else None
            dist.gather(given(count, ctx.rank), outputs, root, group=ctx.group)
            for rank, output in enumerate(outputs or []):
                assert_same_bits(output, given(count, rank))


@since((2, 14), "gather_single")
@multirank(1, 2, 3, 4, gloo=False)
def test_single_to_every_root(ctx):
    for count in COUNTS:
        for root in range(ctx.size):
            output = torch.zeros(ctx.size * count) if ctx.rank == root else None
            dist.gather_single(given(count, ctx.rank), output, root, group=ctx.group)
            if ctx.rank == root:
                assert_same_bits(output, torch.cat([given(count, rank) for rank in range(ctx.size)]))


@multirank(2, 4)
def test_the_input_is_not_written(ctx):
    tensor = given(1000, ctx.rank)
    outputs = [torch.zeros(1000) for _ in range(ctx.size)] if ctx.rank == 0 else None
    dist.gather(tensor, outputs, 0, group=ctx.group)
    assert_same_bits(tensor, given(1000, ctx.rank))


@multirank(3, 4)
def test_group_dst_counts_within_the_group(ctx):
    ranks = [1, 2]
    group = ctx.new_group(ranks)
    if ctx.rank in ranks:
        outputs = [torch.zeros(5) for _ in ranks] if ctx.rank == 2 else None
        dist.gather(given(5, ctx.rank), outputs, group=group, group_dst=1)
        for rank, output in zip(ranks, outputs or [], strict=False):
            assert_same_bits(output, given(5, rank))
