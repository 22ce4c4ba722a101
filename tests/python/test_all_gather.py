"""dist.all_gather (list, of different sizes too), all_gather_into_tensor, and their coalesced forms."""

import torch
import torch.distributed as dist
from multirank import multirank
from references import COUNTS, any_bits, assert_same_bits


def given(count, rank, dtype=torch.float32):
    return any_bits(dtype, count, 11, rank)


@multirank(1, 2, 3, 4)
def test_list(ctx):
    for count in COUNTS:
        outputs = [torch.zeros(count) for _ in range(ctx.size)]
        dist.all_gather(outputs, given(count, ctx.rank), group=ctx.group)
        for rank, output in enumerate(outputs):
            assert_same_bits(output, given(count, rank))


@multirank(2, 3, 4, gloo=False)
def test_list_of_different_sizes(ctx):
    for base in (0, 1, 1000, 70_001):
        outputs = [torch.zeros(base + 7 * rank) for rank in range(ctx.size)]
        dist.all_gather(outputs, given(base + 7 * ctx.rank, ctx.rank), group=ctx.group)
        for rank, output in enumerate(outputs):
            assert_same_bits(output, given(base + 7 * rank, rank))


@multirank(1, 2, 3, 4)
def test_into_one_tensor(ctx):
    for count in COUNTS:
        output = torch.zeros(ctx.size * count)
        dist.all_gather_into_tensor(output, given(count, ctx.rank), group=ctx.group)
        assert_same_bits(output, torch.cat([given(count, rank) for rank in range(ctx.size)]))


@multirank(2, 4, gloo=False)
def test_into_a_stack(ctx):
    output = torch.zeros(ctx.size, 2, 3)
    dist.all_gather_into_tensor(output, torch.full((2, 3), float(ctx.rank)), group=ctx.group)
    assert torch.equal(output, torch.arange(ctx.size).float().reshape(-1, 1, 1).expand(-1, 2, 3))


@multirank(2, 4, gloo=False)
def test_into_one_tensor_in_place(ctx):
    """The input may be the rank's own part of the output."""
    output = torch.zeros(ctx.size, 1000)
    output[ctx.rank] = ctx.rank + 1
    dist.all_gather_into_tensor(output, output[ctx.rank], group=ctx.group)
    assert torch.equal(output, torch.arange(1.0, ctx.size + 1).reshape(-1, 1).expand(-1, 1000))


@multirank(2, 4)
def test_large(ctx):
    count = 1 << 20
    output = torch.zeros(ctx.size * count)
    dist.all_gather_into_tensor(output, given(count, ctx.rank), group=ctx.group)
    assert_same_bits(output, torch.cat([given(count, rank) for rank in range(ctx.size)]))


@multirank(2, 3, 4)
def test_coalesced_lists(ctx):
    counts = [3, 500]
    inputs = [given(count, ctx.rank) for count in counts]
    outputs = [[torch.zeros(count) for count in counts] for _ in range(ctx.size)]
    work = ctx.group.allgather_coalesced(outputs, inputs)
    work.wait()
    for rank in range(ctx.size):
        for output, count in zip(outputs[rank], counts, strict=True):
            assert_same_bits(output, given(count, rank))


@multirank(2, 3, 4)
def test_coalesced_into_tensors(ctx):
    counts = [3, 500]
    outputs = [torch.zeros(ctx.size * count) for count in counts]
    with dist.distributed_c10d._coalescing_manager(ctx.group, async_ops=True) as manager:
        for output, count in zip(outputs, counts, strict=True):
            dist.all_gather_into_tensor(output, given(count, ctx.rank), group=ctx.group)
    manager.wait()
    for output, count in zip(outputs, counts, strict=True):
        assert_same_bits(output, torch.cat([given(count, rank) for rank in range(ctx.size)]))
