"""dist.reduce_scatter (list, of different sizes too), reduce_scatter_tensor, and the coalesced form."""

import torch
import torch.distributed as dist
from multirank import multirank
from references import COUNTS, assert_reduced, values


def given(count, source, target, dtype=torch.float32):
    """What rank `source` adds to the result of rank `target`."""
    return values(dtype, count, 14, source, target)


def contributions(ctx, count, target, dtype=torch.float32):
    return [given(count, source, target, dtype) for source in range(ctx.size)]


@multirank(1, 2, 3, 4)
def test_list(ctx):
    for count in COUNTS:
        inputs = [given(count, ctx.rank, target) for target in range(ctx.size)]
        output = torch.zeros(count)
        dist.reduce_scatter(output, inputs, group=ctx.group)
        assert_reduced(output, contributions(ctx, count, ctx.rank), "SUM")


@multirank(2, 3, 4, gloo=False)
def test_list_of_different_sizes(ctx):
    for base in (0, 1, 1000, 70_001):
        counts = [base + 5 * target for target in range(ctx.size)]
        inputs = [given(counts[target], ctx.rank, target) for target in range(ctx.size)]
        output = torch.zeros(counts[ctx.rank])
        dist.reduce_scatter(output, inputs, group=ctx.group)
        assert_reduced(output, contributions(ctx, counts[ctx.rank], ctx.rank), "SUM")


@multirank(1, 2, 3, 4)
def test_tensor(ctx):
    for count in COUNTS:
        whole = torch.cat([given(count, ctx.rank, target) for target in range(ctx.size)])
        output = torch.zeros(count)
        dist.reduce_scatter_tensor(output, whole, group=ctx.group)
        assert_reduced(output, contributions(ctx, count, ctx.rank), "SUM")


@multirank(2, 4, gloo=False)
def test_tensor_stacked_and_large(ctx):
    count = 1 << 18
    whole = torch.stack([given(count, ctx.rank, target) for target in range(ctx.size)])
    output = torch.zeros(count)
    dist.reduce_scatter_tensor(output, whole, group=ctx.group)
    assert_reduced(output, contributions(ctx, count, ctx.rank), "SUM")


@multirank(2, 4)
def test_the_input_is_not_written(ctx):
    whole = torch.cat([given(1000, ctx.rank, target) for target in range(ctx.size)])
    before = whole.clone()
    dist.reduce_scatter_tensor(torch.zeros(1000), whole, group=ctx.group)
    assert torch.equal(whole, before)


@multirank(2, 4, gloo=False)
def test_output_may_be_the_own_part_of_the_input(ctx):
    whole = torch.stack([given(1000, ctx.rank, target) for target in range(ctx.size)])
    dist.reduce_scatter_tensor(whole[ctx.rank], whole, group=ctx.group)
    assert_reduced(whole[ctx.rank], contributions(ctx, 1000, ctx.rank), "SUM")


@multirank(2, 3, 4, gloo=False)
def test_average_as_fsdp_uses_it(ctx):
    for dtype in (torch.float32, torch.bfloat16):
        whole = torch.cat([given(999, ctx.rank, target, dtype) for target in range(ctx.size)])
        output = torch.zeros(999, dtype=dtype)
        dist.reduce_scatter_tensor(output, whole, dist.ReduceOp.AVG, group=ctx.group)
        assert_reduced(output, contributions(ctx, 999, ctx.rank, dtype), "AVG")


@multirank(2, 3, 4)
def test_coalesced(ctx):
    counts = [4, 600]
    outputs = [torch.zeros(count) for count in counts]
    with dist.distributed_c10d._coalescing_manager(ctx.group, async_ops=True) as manager:
        for output, count in zip(outputs, counts, strict=True):
            whole = torch.cat([given(count, ctx.rank, target) for target in range(ctx.size)])
            dist.reduce_scatter_tensor(output, whole, group=ctx.group)
    manager.wait()
    for output, count in zip(outputs, counts, strict=True):
        assert_reduced(output, contributions(ctx, count, ctx.rank), "SUM")
