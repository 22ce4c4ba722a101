"""Collectives that move more than the slots hold, where ranks of a node may read straight from each other's memory.
They run once more with that forced and with that forbidden; see test_single_copy.py."""

import pytest
import torch
import torch.distributed as dist
from multirank import multirank
from references import any_bits, assert_same_bits, bits

# More than four rounds of 256 KiB, and not a whole number of them.
BYTES = (1 << 20) + 200_003
# Elements of 4, 2, 1 and 16 bytes; the third cannot be reduced.
TYPES = (torch.float32, torch.bfloat16, torch.float8_e5m2, torch.complex128)


def count_of(dtype):
    return BYTES // dtype.itemsize


def given(dtype, *seed):
    return any_bits(dtype, count_of(dtype), 61, *seed)


def empty(dtype, count=None):
    return torch.zeros(count_of(dtype) if count is None else count, dtype=torch.uint8).to(dtype)


@multirank(2, 3, gloo=False)
def test_from_a_root(ctx):
    for index, dtype in enumerate(TYPES):
        root = index % ctx.size
        tensor = given(dtype, ctx.rank)
        dist.broadcast(tensor, root, group=ctx.group)
        assert_same_bits(tensor, given(dtype, root))
        output = empty(dtype)
        blocks = [given(dtype, root, to) for to in range(ctx.size)] if ctx.rank == root else None
        dist.scatter(output, blocks, root, group=ctx.group)
        assert_same_bits(output, given(dtype, root, ctx.rank))


@multirank(2, 3, gloo=False)
def test_to_a_root_and_to_all(ctx):
    for index, dtype in enumerate(TYPES):
        root = index % ctx.size
        outputs = [empty(dtype) for _ in range(ctx.size)] if ctx.rank == root else None
        dist.gather(given(dtype, ctx.rank), outputs, root, group=ctx.group)
        for rank, output in enumerate(outputs or []):
            assert_same_bits(output, given(dtype, rank))
        output = empty(dtype, ctx.size * count_of(dtype))
        dist.all_gather_into_tensor(output, given(dtype, ctx.rank), group=ctx.group)
        assert torch.equal(bits(output), torch.cat([bits(given(dtype, rank)) for rank in range(ctx.size)]))


@multirank(2, 3, gloo=False)
def test_uneven_blocks(ctx):
    def block(source, target):
        # Of some pairs nothing, of others more than the slots hold.
        return any_bits(torch.int16, (source + 2 * target) % 3 * 300_007, 62, source, target)

    outputs = [torch.zeros_like(block(source, ctx.rank)) for source in range(ctx.size)]
    dist.all_to_all(outputs, [block(ctx.rank, target) for target in range(ctx.size)], group=ctx.group)
    for source, output in enumerate(outputs):
        assert_same_bits(output, block(source, ctx.rank))


@multirank(2, 3, gloo=False)
def test_in_place_strided_and_several_at_once(ctx):
    count = count_of(torch.int32)
    groups = [ctx.group, ctx.new_group()]
    wide = torch.full((count, 2), -1, dtype=torch.int32)
    wide[:, 0] = torch.arange(count) + ctx.rank
    works = [dist.broadcast(wide[:, 0], 1, group=groups[0], async_op=True)]
    whole = torch.zeros(ctx.size * count, dtype=torch.int32)
    mine = whole[ctx.rank * count : (ctx.rank + 1) * count].fill_(ctx.rank + 5)
    works.append(dist.all_gather_into_tensor(whole, mine, group=groups[1], async_op=True))
    for work in works:
        work.wait()
    assert torch.equal(wide[:, 0], torch.arange(count, dtype=torch.int32) + 1)
    assert (wide[:, 1] == -1).all()
    assert torch.equal(whole, torch.arange(5, 5 + ctx.size, dtype=torch.int32).repeat_interleave(count))


@multirank(2, 3, gloo=False)
def test_calls_that_do_not_fit(ctx):
    long, blocks = torch.ones(400_000), [torch.ones(400_000) for _ in range(ctx.size)]

    def broadcast(tensor, root=0):
        return lambda group: dist.broadcast(tensor, group_src=root, group=group)

    cases = (
        (broadcast(long), broadcast(long.int()), "400000 int32"),
        (broadcast(long), broadcast(torch.ones(400_001)), "400001 float32"),
        (broadcast(long), broadcast(long, 1), "from rank 1"),
        (broadcast(long), lambda group: dist.all_gather(blocks, long, group=group), "all_gather"),
    )
    for common, odd, words in cases:
        group = ctx.new_group()
        error = ctx.error_of(odd if ctx.rank == ctx.size - 1 else common, group)
        assert words in str(error), str(error)
        with pytest.raises(dist.DistBackendError, match="can no longer be used"):
            dist.barrier(group)
