"""Attention over a sequence that the ranks share equals attention over the whole sequence in one process.

The keys and values go round the ring of the ranks by `batch_isend_irecv`; each rank combines what it has seen with an
online softmax (Liu et al., "Ring Attention with Blockwise Transformers", 2023).
"""

import itertools
import math

import torch
import torch.distributed as dist
from multirank import multirank

BATCH, HEADS, WIDTH = 2, 3, 8


class Shift(torch.autograd.Function):
    """Sends tensors to the next rank of the ring and returns those of the rank before; gradients go the other way."""

    @staticmethod
    def forward(ctx, group, *tensors):
        ctx.group = group
        return shift(group, tensors, +1)

    @staticmethod
    def backward(ctx, *gradients):
        return None, *shift(ctx.group, gradients, -1)


def shift(group, tensors, step):
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    received = tuple(torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors)
    operations = [
        dist.P2POp(dist.isend, tensor.contiguous(), group=group, group_peer=(rank + step) % size) for tensor in tensors
    ]
    operations += [dist.P2POp(dist.irecv, tensor, group=group, group_peer=(rank - step) % size) for tensor in received]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    return received


def ring_attention(group, q, k, v, causal):
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    length = q.shape[-2]
    maximum = torch.full(q.shape[:-1], -math.inf)
    total = torch.zeros(q.shape[:-1])
    output = torch.zeros_like(q)
    for step in range(size):
        source = (rank - step) % size
        scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH)
        if causal:
            mine = rank * length + torch.arange(length)
            theirs = source * length + torch.arange(length)
            scores = scores.masked_fill(theirs > mine[:, None], -math.inf)
        # The first block is the rank's own, in which every query sees a key: the maximum is finite from then on.
        above = torch.maximum(maximum, scores.amax(-1)).detach()
        weights = torch.exp(scores - above[..., None])
        scale = torch.exp(maximum - above)
        total = total * scale + weights.sum(-1)
        output = output * scale[..., None] + weights @ v
        maximum = above
        if step < size - 1:
            k, v = Shift.apply(group, k, v)
    return output / total[..., None]


def whole(length, *seed):
    """Queries, keys, values and the gradient of the output."""
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(BATCH, HEADS, length, WIDTH, generator=generator) for _ in range(4)]


def check(ctx, attention, causal, length=24):
    q, k, v, gradient = (tensor.requires_grad_() for tensor in whole(length))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    expected.backward(gradient)
    mine = [part.chunk(ctx.size, dim=2)[ctx.rank].detach().clone().requires_grad_() for part in (q, k, v)]
    output = attention(*mine)
    output.backward(gradient.chunk(ctx.size, dim=2)[ctx.rank])
    torch.testing.assert_close(output, expected.chunk(ctx.size, dim=2)[ctx.rank], rtol=1e-5, atol=1e-5)
    for part, full in zip(mine, (q, k, v), strict=True):
        torch.testing.assert_close(part.grad, full.grad.chunk(ctx.size, dim=2)[ctx.rank], rtol=1e-5, atol=1e-5)


@multirank(2, 4)
def test_ring(ctx):
    check(ctx, lambda q, k, v: ring_attention(ctx.group, q, k, v, causal=False), causal=False)


@multirank(2, 4)
def test_causal_ring(ctx):
    check(ctx, lambda q, k, v: ring_attention(ctx.group, q, k, v, causal=True), causal=True)


@multirank(2)
def test_ring_of_context_parallelism(ctx):
    """torch's own ring under `context_parallel`, whose keys and values travel by all_to_all or all_gather.

    Below that function, since on the CPU it does not choose this way.
    """
    # Imports much of the compiler.
    from torch.distributed.tensor.experimental._context_parallel import _attention as context_parallel

    operations = torch.ops.aten
    for rotation, causal in itertools.product(("alltoall", "allgather"), (False, True)):
        context_parallel.set_rotate_method(rotation)
        context_parallel._cp_options.enable_load_balance = False
        q, k, v, gradient = (tensor.requires_grad_() for tensor in whole(24))
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        expected.backward(gradient)
        mine = [part.detach().chunk(ctx.size, dim=2)[ctx.rank].contiguous() for part in (q, k, v)]
        output, logsumexp = context_parallel._templated_ring_attention(
            ctx.group, 2, operations._scaled_dot_product_flash_attention_for_cpu, *mine, is_causal=causal
        )
        torch.testing.assert_close(output, expected.chunk(ctx.size, dim=2)[ctx.rank], rtol=1e-5, atol=1e-5)
        gradients = context_parallel._templated_ring_attention_backward(
            ctx.group,
            2,
            operations._scaled_dot_product_flash_attention_for_cpu_backward,
            gradient.detach().chunk(ctx.size, dim=2)[ctx.rank].contiguous(),
            "grad_out",
            *mine,
            output,
            logsumexp,
            is_causal=causal,
            dropout_p=0.0,
        )
        for actual, full in zip(gradients, (q, k, v), strict=True):
            torch.testing.assert_close(actual, full.grad.chunk(ctx.size, dim=2)[ctx.rank], rtol=1e-5, atol=1e-5)
