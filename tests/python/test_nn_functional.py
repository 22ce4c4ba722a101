"""Operations of `torch.distributed.nn.functional`: their results and gradients are those of one process."""

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from gradients import check, inputs_of, scalar
from multirank import multirank

SHAPE = (3, 2)
ROOT = 1


@multirank(2, 4)
def test_broadcast(ctx):
    check(
        ctx,
        lambda mine: [dist_nn.broadcast(mine[0], ROOT, ctx.group)],
        lambda leaves: [[leaves[ROOT][0]] for _ in leaves],
        [SHAPE],
    )


@multirank(2, 4)
def test_gather(ctx):
    """Other ranks than the root have zeros, on which nothing depends."""

    def reference(leaves):
        zeros = [torch.zeros(SHAPE) for _ in leaves]
        return [[leaf for (leaf,) in leaves] if rank == ROOT else zeros for rank in range(len(leaves))]

    check(ctx, lambda mine: dist_nn.gather(mine[0], ROOT, ctx.group), reference, [SHAPE])


@multirank(2, 4)
def test_scatter(ctx):
    check(
        ctx,
        lambda mine: [dist_nn.scatter(mine, ROOT, ctx.group)],
        lambda leaves: [[part] for part in leaves[ROOT]],
        [SHAPE] * ctx.size,
    )


@multirank(2, 4)
def test_reduce(ctx):
    """Other ranks than the root keep what they gave; no gradient flows there, so only the root's weights count."""
    leaves = [leaf for (leaf,) in inputs_of(ctx.size, [SHAPE])]
    mine = leaves[ctx.rank].detach().clone().requires_grad_()
    output = dist_nn.reduce(mine, ROOT, group=ctx.group)
    scalar([output], ctx.rank).backward()
    total = sum(leaves)
    scalar([total], ROOT).backward()
    if ctx.rank == ROOT:
        torch.testing.assert_close(output, total)
    torch.testing.assert_close(mine.grad, leaves[ctx.rank].grad)


@multirank(2, 4)
def test_all_reduce(ctx):
    def reference(leaves):
        total = sum(leaf for (leaf,) in leaves)
        return [[total] for _ in leaves]

    check(ctx, lambda mine: [dist_nn.all_reduce(mine[0], group=ctx.group)], reference, [SHAPE])


@multirank(2, 4, gloo=False)
def test_all_reduce_average(ctx):
    def reference(leaves):
        mean = sum(leaf for (leaf,) in leaves) / len(leaves)
        return [[mean] for _ in leaves]

    check(ctx, lambda mine: [dist_nn.all_reduce(mine[0], dist.ReduceOp.AVG, ctx.group)], reference, [SHAPE])


@multirank(2, 4)
def test_reduce_scatter(ctx):
    check(
        ctx,
        lambda mine: [dist_nn.reduce_scatter(torch.empty(SHAPE), mine, group=ctx.group)],
        lambda leaves: [[sum(parts)] for parts in zip(*leaves, strict=True)],
        [SHAPE] * ctx.size,
    )


@multirank(2, 4)
def test_all_gather(ctx):
    check(
        ctx,
        lambda mine: dist_nn.all_gather(mine[0], ctx.group),
        lambda leaves: [[leaf for (leaf,) in leaves] for _ in leaves],
        [SHAPE],
    )


@multirank(2, 4)
def test_all_gather_base(ctx):
    """torch has its gradient for NCCL only."""
    leaves = [leaf for (leaf,) in inputs_of(ctx.size, [SHAPE])]
    output = torch.empty(ctx.size * SHAPE[0], SHAPE[1])
    result = dist_nn._all_gather_base(output, leaves[ctx.rank].detach(), ctx.group)
    assert torch.equal(result, torch.cat(leaves))


@multirank(2, 4)
def test_all_to_all(ctx):
    check(
        ctx,
        lambda mine: dist_nn.all_to_all([torch.empty(SHAPE) for _ in mine], mine, ctx.group),
        lambda leaves: list(zip(*leaves, strict=True)),
        [SHAPE] * ctx.size,
    )


@multirank(2, 4)
def test_all_to_all_single(ctx):
    even = [SHAPE[0]] * ctx.size
    check(
        ctx,
        lambda mine: [
            dist_nn.all_to_all_single(torch.empty(sum(even), SHAPE[1]), torch.cat(mine), even, even, ctx.group)
        ],
        lambda leaves: [[torch.cat(parts)] for parts in zip(*leaves, strict=True)],
        [SHAPE] * ctx.size,
    )


@multirank(2, 4)
def test_all_to_all_single_with_uneven_sizes(ctx):
    def rows(sender, receiver):
        return 1 + (sender + 2 * receiver) % 3

    sends = [rows(ctx.rank, peer) for peer in range(ctx.size)]
    receives = [rows(peer, ctx.rank) for peer in range(ctx.size)]

    def operation(mine):
        given = torch.cat([part[:count] for part, count in zip(mine, sends, strict=True)])
        return [dist_nn.all_to_all_single(torch.empty(sum(receives), SHAPE[1]), given, receives, sends, ctx.group)]

    def reference(leaves):
        return [
            [torch.cat([leaves[sender][receiver][: rows(sender, receiver)] for sender in range(ctx.size)])]
            for receiver in range(ctx.size)
        ]

    check(ctx, operation, reference, [SHAPE] * ctx.size)
