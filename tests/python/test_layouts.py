"""Tensors of other shapes and layouts than a plain contiguous one."""

import torch
import torch.distributed as dist
from multirank import multirank


def matrix(rank, dtype=torch.float32):
    return (torch.arange(12, dtype=dtype) + 100 * rank).reshape(3, 4)


def total(ctx):
    return sum(matrix(rank) for rank in range(ctx.size))


@multirank(1, 2, 4)
def test_scalars(ctx):
    tensor = torch.tensor(float(ctx.rank))
    dist.all_reduce(tensor, group=ctx.group)
    assert tensor.shape == ()
    assert tensor.item() == sum(range(ctx.size))
    outputs = [torch.tensor(0.0) for _ in range(ctx.size)]
    dist.all_gather(outputs, torch.tensor(float(ctx.rank)), group=ctx.group)
    assert [output.item() for output in outputs] == list(range(ctx.size))
    dist.broadcast(tensor.fill_(ctx.rank), 0, group=ctx.group)
    assert tensor.item() == 0


@multirank(1, 2, 4, gloo=False)
def test_nothing(ctx):
    """Zero elements, in every collective; the ranks still keep step."""
    for shape in ((0,), (3, 0, 2)):
        empty = torch.zeros(shape)
        list_of = [torch.zeros(shape) for _ in range(ctx.size)]
        root = ctx.rank == 0
        dist.all_reduce(empty, group=ctx.group)
        dist.broadcast(empty, 0, group=ctx.group)
        dist.reduce(empty, 0, group=ctx.group)
        dist.all_gather(list_of, empty, group=ctx.group)
        dist.all_gather_into_tensor(torch.zeros((ctx.size * shape[0], *shape[1:])), empty, group=ctx.group)
        dist.gather(empty, list_of if root else None, 0, group=ctx.group)
        dist.scatter(empty, list_of if root else None, 0, group=ctx.group)
        dist.reduce_scatter(empty, list_of, group=ctx.group)
        dist.all_to_all(list_of, [torch.zeros(shape) for _ in range(ctx.size)], group=ctx.group)
    following, previous = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    work = dist.isend(torch.zeros(0), following, group=ctx.group)
    dist.irecv(torch.zeros(0), previous, group=ctx.group).wait()
    work.wait()
    tensor = torch.ones(1)
    dist.all_reduce(tensor, group=ctx.group)
    assert tensor.item() == ctx.size


@multirank(2, 4, gloo=False)
def test_strided_all_reduce(ctx):
    """The elements between the strides stay as they are."""
    wide = torch.full((3, 8), -1.0)
    view = wide[:, ::2]
    view.copy_(matrix(ctx.rank))
    dist.all_reduce(view, group=ctx.group)
    assert torch.equal(view, total(ctx))
    assert torch.equal(wide[:, 1::2], torch.full((3, 4), -1.0))


@multirank(2, 4)
def test_transposed_all_reduce(ctx):
    tensor = matrix(ctx.rank).t()
    dist.all_reduce(tensor, group=ctx.group)
    assert torch.equal(tensor, total(ctx).t())


@multirank(2, 4, gloo=False)
def test_layouts_that_differ_between_ranks(ctx):
    """Elements meet by their index, not by where they lie."""
    tensor = matrix(ctx.rank) if ctx.rank == 0 else matrix(ctx.rank).t().contiguous().t()
    dist.all_reduce(tensor, group=ctx.group)
    assert torch.equal(tensor, total(ctx))
    tensor = matrix(ctx.rank) if ctx.rank == 0 else torch.zeros(4, 3).t()
    dist.broadcast(tensor, 0, group=ctx.group)
    assert torch.equal(tensor, matrix(0))


@multirank(2, 4, gloo=False)
def test_strided_broadcast_and_messages(ctx):
    wide = torch.full((4, 6), -1.0)
    view = wide[:, ::2]
    view.fill_(ctx.rank)
    dist.broadcast(view, 1, group=ctx.group)
    assert torch.equal(view, torch.ones(4, 3))
    assert torch.equal(wide[:, 1::2], torch.full((4, 3), -1.0))
    following, previous = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    work = dist.isend(matrix(ctx.rank).t(), following, group=ctx.group)
    view = torch.full((4, 6), -1.0)[:, ::2]
    dist.recv(view, previous, group=ctx.group)
    work.wait()
    assert torch.equal(view, matrix(previous).t())


@multirank(2, 4, gloo=False)
def test_strided_lists(ctx):
    outputs = [torch.zeros(4, 3).t() for _ in range(ctx.size)]
    dist.all_gather(outputs, matrix(ctx.rank).t().contiguous().t(), group=ctx.group)
    for rank, output in enumerate(outputs):
        assert torch.equal(output, matrix(rank))
    output = torch.zeros(4, 3).t()
    dist.reduce_scatter(output, [matrix(ctx.rank).t().contiguous().t() for _ in range(ctx.size)], group=ctx.group)
    assert torch.equal(output, total(ctx))
    outputs = [torch.zeros(4, 3).t() for _ in range(ctx.size)]
    dist.all_to_all(outputs, [matrix(10 * ctx.rank + rank) for rank in range(ctx.size)], group=ctx.group)
    for rank, output in enumerate(outputs):
        assert torch.equal(output, matrix(10 * rank + ctx.rank))


@multirank(2, 4)
def test_channels_last(ctx):
    tensor = (torch.arange(48.0).reshape(2, 3, 2, 4) * (ctx.rank + 1)).to(memory_format=torch.channels_last)
    dist.all_reduce(tensor, group=ctx.group)
    factor = sum(range(1, ctx.size + 1))
    assert torch.equal(tensor, torch.arange(48.0).reshape(2, 3, 2, 4) * factor)
    assert tensor.is_contiguous(memory_format=torch.channels_last)


@multirank(2, 4)
def test_view_with_an_offset(ctx):
    whole = torch.full((10,), -1.0)
    whole[3:7] = ctx.rank
    dist.all_reduce(whole[3:7], group=ctx.group)
    assert whole.tolist() == [-1] * 3 + [sum(range(ctx.size))] * 4 + [-1] * 3


@multirank(2, 4)
def test_requires_grad(ctx):
    tensor = torch.full((5,), float(ctx.rank), requires_grad=True)
    with torch.no_grad():
        dist.all_reduce(tensor, group=ctx.group)
    assert tensor.requires_grad
    assert torch.equal(tensor.detach(), torch.full((5,), float(sum(range(ctx.size)))))
    outputs = [torch.zeros(5) for _ in range(ctx.size)]
    dist.all_gather(outputs, tensor, group=ctx.group)
    assert all(torch.equal(output, tensor.detach()) for output in outputs)


@multirank(2, 4)
def test_inference_mode(ctx):
    with torch.inference_mode():
        tensor = torch.full((5,), float(ctx.rank))
        dist.all_reduce(tensor, group=ctx.group)
        assert torch.equal(tensor, torch.full((5,), float(sum(range(ctx.size)))))
        work = dist.broadcast(tensor.fill_(ctx.rank), 1, group=ctx.group, async_op=True)
        work.wait()
        assert tensor[0] == 1
    ordinary = torch.ones(5)
    dist.all_reduce(ordinary, group=ctx.group)
    assert ordinary[0] == ctx.size


@multirank(2, 4)
def test_parameters(ctx):
    parameter = torch.nn.Parameter(torch.full((4, 4), float(ctx.rank)))
    dist.broadcast(parameter.data, 0, group=ctx.group)
    assert torch.equal(parameter.data, torch.zeros(4, 4))
