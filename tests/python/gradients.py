"""What differentiable collectives must give: the results and gradients of one process.

The reference lets the inputs of all ranks be leaves of one graph, computes every rank's outputs from them, and goes
backward from all outputs at once: the gradient that an input of rank r gets there is what it must get on rank r.
"""

import torch


def inputs_of(size, shapes):
    """The leaves of each rank, one of each shape."""
    generator = torch.Generator().manual_seed(21)
    return [[torch.randn(shape, generator=generator).requires_grad_() for shape in shapes] for _ in range(size)]


def scalar(outputs, rank):
    """A number that depends on the outputs of a rank, on each element by another weight."""
    generator = torch.Generator().manual_seed(rank)
    return sum((output * torch.randn(output.shape, generator=generator)).sum() for output in outputs)


def check(ctx, operation, reference, shapes):
    """`operation`: makes the outputs of this rank of its inputs; `reference`: those of all ranks, of all inputs."""
    leaves = inputs_of(ctx.size, shapes)
    expected = reference(leaves)
    sum(scalar(outputs, rank) for rank, outputs in enumerate(expected)).backward()
    mine = [leaf.detach().clone().requires_grad_() for leaf in leaves[ctx.rank]]
    outputs = operation(mine)
    for output, wanted in zip(outputs, expected[ctx.rank], strict=True):
        torch.testing.assert_close(output, wanted)
    scalar(outputs, ctx.rank).backward()
    for leaf, given in zip(mine, leaves[ctx.rank], strict=True):
        assert torch.equal(leaf, given), "an input has changed"
        torch.testing.assert_close(leaf.grad, torch.zeros_like(given) if given.grad is None else given.grad)
