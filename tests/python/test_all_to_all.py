"""dist.all_to_all_single (even, uneven, with empty parts) and all_to_all (lists of different sizes)."""

import torch
import torch.distributed as dist
from multirank import multirank
from references import any_bits, assert_same_bits


def given(count, source, target):
    """What rank `source` sends to rank `target`."""
    return any_bits(torch.float32, count, 15, source, target)


def sent_to(ctx, counts):
    """`counts(source, target)` -> the parts that this rank sends, and those that it must get."""
    sends = [given(counts(ctx.rank, rank), ctx.rank, rank) for rank in range(ctx.size)]
    receives = [given(counts(rank, ctx.rank), rank, ctx.rank) for rank in range(ctx.size)]
    return sends, receives


UNEVEN = [
    lambda source, target: 1 + source + 2 * target,
    lambda source, target: (source * 3 + target * 5) % 4,
    lambda source, target: 0 if source == target else 10,
    lambda source, target: 7 if (source, target) == (0, 1) else 0,
    lambda source, target: 0,
    lambda source, target: 20_000 * (1 + source) + target,
]


@multirank(1, 2, 3, 4)
def test_single_even(ctx):
    for count in (1, 5, 1000, 20_001):
        sends, receives = sent_to(ctx, lambda source, target, count=count: count)
        output = torch.zeros(ctx.size * count)
        dist.all_to_all_single(output, torch.cat(sends), group=ctx.group)
        assert_same_bits(output, torch.cat(receives))


@multirank(2, 4)
def test_single_of_rows(ctx):
    sends = torch.arange(ctx.size * 2 * 3).reshape(ctx.size * 2, 3) + 1000 * ctx.rank
    output = torch.zeros_like(sends)
    dist.all_to_all_single(output, sends, group=ctx.group)
    rows = torch.arange(ctx.size * 2 * 3).reshape(ctx.size * 2, 3)[2 * ctx.rank : 2 * ctx.rank + 2]
    assert torch.equal(output, torch.cat([rows + 1000 * rank for rank in range(ctx.size)]))


@multirank(1, 2, 3, 4)
def test_single_uneven(ctx):
    for counts in UNEVEN:
        sends, receives = sent_to(ctx, counts)
        output = torch.zeros(sum(len(part) for part in receives))
        dist.all_to_all_single(
            output,
            torch.cat(sends),
            [len(part) for part in receives],
            [len(part) for part in sends],
            group=ctx.group,
        )
        assert_same_bits(output, torch.cat(receives))


@multirank(1, 2, 3, 4, gloo=False)
def test_list_of_different_sizes(ctx):
    for counts in UNEVEN:
        sends, receives = sent_to(ctx, counts)
        outputs = [torch.zeros(len(part)) for part in receives]
        dist.all_to_all(outputs, sends, group=ctx.group)
        for output, expected in zip(outputs, receives, strict=True):
            assert_same_bits(output, expected)


@multirank(2, 4, gloo=False)
def test_list_of_different_shapes(ctx):
    """Only the number of elements between a pair must agree."""
    outputs = [torch.zeros(2, 3) for _ in range(ctx.size)]
    inputs = [torch.full((6,), float(10 * ctx.rank + rank)) for rank in range(ctx.size)]
    dist.all_to_all(outputs, inputs, group=ctx.group)
    for rank, output in enumerate(outputs):
        assert torch.equal(output, torch.full((2, 3), float(10 * rank + ctx.rank)))


@multirank(2, 4)
def test_large(ctx):
    sends, receives = sent_to(ctx, lambda source, target: 1 << 18)
    output = torch.zeros(ctx.size << 18)
    dist.all_to_all_single(output, torch.cat(sends), group=ctx.group)
    assert_same_bits(output, torch.cat(receives))
