"""Bad arguments: an error of the class that PyTorch users expect, the same on all ranks, and nothing moved."""

import pytest
import torch
import torch.distributed as dist
from multirank import multirank


def still_works(ctx):
    """The group is whole after a refusal: the next operation gives the right result."""
    tensor = torch.full((10,), float(ctx.rank + 1))
    dist.all_reduce(tensor, group=ctx.group)
    assert torch.equal(tensor, torch.full((10,), float(sum(range(1, ctx.size + 1)))))


def refused(ctx, classes, function, *arguments, **options):
    error = ctx.error_of(function, *arguments, **options)
    assert isinstance(error, classes), f"{type(error).__name__}: {error}"
    # A timeout or a failure of the backend is no refusal, and a signature that does not fit tells nothing of ours.
    assert not isinstance(error, dist.DistError), f"{type(error).__name__}: {error}"
    assert "incompatible function arguments" not in str(error) or classes == (TypeError,), str(error)
    return error


BAD_VALUE = (ValueError,)
# Where torch itself may refuse before the backend is asked.
BAD_TENSOR = (ValueError, TypeError, RuntimeError, NotImplementedError)


@multirank(1, 2, 4)
def test_root_out_of_range(ctx):
    tensor = torch.arange(3.0)
    for root in (ctx.size, -1):
        refused(ctx, BAD_VALUE, dist.broadcast, tensor, root, group=ctx.group)
        refused(ctx, BAD_VALUE, dist.reduce, tensor, root, group=ctx.group)
    assert tensor.tolist() == [0, 1, 2]
    still_works(ctx)


@multirank(1, 2, 4, gloo=False)
def test_root_out_of_range_at_the_backend(ctx):
    """torch checks the rank that it is given, but `group_src` and the group's own methods reach the backend."""
    tensor = torch.arange(3.0)
    for root in (ctx.size, -1):
        options = dist.BroadcastOptions()
        options.rootRank = root
        refused(ctx, BAD_VALUE, ctx.group.broadcast, [tensor], options)
        options = dist.ReduceOptions()
        options.rootRank = root
        refused(ctx, BAD_VALUE, ctx.group.reduce, [tensor], options)
    assert tensor.tolist() == [0, 1, 2]
    still_works(ctx)


@multirank(2, 4, gloo=False)
def test_peer_and_tag_out_of_range(ctx):
    tensor = torch.arange(3.0)
    for peer in (ctx.size, -1):
        refused(ctx, BAD_VALUE, ctx.group.send, [tensor], peer, 0)
        refused(ctx, BAD_VALUE, ctx.group.recv, [tensor], peer, 0)
    refused(ctx, BAD_VALUE, ctx.group.send, [tensor], (ctx.rank + 1) % ctx.size, -1)
    refused(ctx, BAD_VALUE, dist.send, tensor, ctx.rank, group=ctx.group)
    still_works(ctx)


@multirank(1, 2, 4, gloo=False)
def test_number_of_tensors(ctx):
    tensor = torch.ones(2)
    for tensors in ([], [tensor, tensor.clone()]):
        # No tensor, no device: there torch cannot choose the backend.
        classes = BAD_VALUE if tensors else BAD_TENSOR
        refused(ctx, classes, ctx.group.allreduce, tensors)
        refused(ctx, classes, ctx.group.broadcast, tensors)
        refused(ctx, classes, ctx.group.send, tensors, 0, 0)
    many = [torch.zeros(2) for _ in range(ctx.size + 1)]
    refused(ctx, BAD_TENSOR, dist.all_gather, many, tensor, group=ctx.group)
    refused(ctx, BAD_TENSOR, dist.reduce_scatter, tensor, many, group=ctx.group)
    assert all(not other.any() for other in many)
    assert tensor.tolist() == [1, 1]
    still_works(ctx)


@multirank(1, 2, 4, gloo=False)
def test_number_of_tensors_of_all_to_all(ctx):
    many = [torch.zeros(2) for _ in range(ctx.size + 1)]
    refused(ctx, BAD_VALUE, dist.all_to_all, many, many, group=ctx.group)
    still_works(ctx)


@multirank(2, 4)
def test_number_of_tensors_at_the_root(ctx):
    """Only the root can see this one; it must not wait for anybody."""
    few = [torch.zeros(2) for _ in range(ctx.size - 1)]
    if ctx.rank == 0:
        with pytest.raises((ValueError, RuntimeError)):
            dist.scatter(torch.zeros(2), few, 0, group=ctx.group)
        with pytest.raises((ValueError, RuntimeError)):
            dist.gather(torch.zeros(2), few, 0, group=ctx.group)
    ctx.exchange()


@multirank(2, 4)
def test_sizes_that_do_not_fit(ctx):
    size = ctx.size
    refused(ctx, BAD_TENSOR, dist.all_gather_into_tensor, torch.zeros(size * 3 + 1), torch.ones(3), group=ctx.group)
    refused(ctx, BAD_TENSOR, dist.reduce_scatter_tensor, torch.zeros(3), torch.ones(size * 3 + 1), group=ctx.group)
    refused(ctx, BAD_TENSOR, dist.all_to_all_single, torch.zeros(size + 1), torch.ones(size + 1), group=ctx.group)
    still_works(ctx)


@multirank(2, 4)
def test_splits_that_do_not_fit(ctx):
    size = ctx.size
    tensor, output = torch.ones(size), torch.zeros(size)
    for splits in ([2] * size, [1] * (size + 1), [1] * (size - 1), [-1] + [1] * (size - 2) + [3]):
        refused(ctx, BAD_TENSOR, dist.all_to_all_single, output, tensor, splits, splits, group=ctx.group)
    assert not output.any()
    still_works(ctx)


@multirank(2, 4, gloo=False)
def test_reduce_scatter_parts_that_do_not_fit(ctx):
    parts = [torch.ones(3) for _ in range(ctx.size)]
    refused(ctx, BAD_VALUE, dist.reduce_scatter, torch.zeros(4), parts, group=ctx.group)
    still_works(ctx)


@multirank(2, 4)
def test_types_that_differ(ctx):
    doubles = [torch.zeros(2, dtype=torch.float64) for _ in range(ctx.size)]
    refused(ctx, BAD_TENSOR, dist.all_gather, doubles, torch.ones(2), group=ctx.group)
    refused(ctx, BAD_TENSOR, dist.all_gather_into_tensor, torch.zeros(2 * ctx.size, dtype=torch.float64), torch.ones(2))
    refused(ctx, BAD_TENSOR, dist.all_to_all_single, doubles[0], torch.ones(2), group=ctx.group)
    still_works(ctx)


@multirank(2, 4)
def test_not_a_tensor(ctx):
    refused(ctx, (TypeError,), dist.all_reduce, [1.0], group=ctx.group)
    refused(ctx, (TypeError,), dist.broadcast, "text", 0, group=ctx.group)
    refused(ctx, (TypeError,), dist.all_gather, torch.ones(2), torch.ones(2), group=ctx.group)
    still_works(ctx)


@multirank(2, 4, gloo=False)
def test_device_without_memory(ctx):
    """Asked of the backend itself: `dist` answers for meta tensors alone, for the sake of tracing."""
    backend = ctx.group._get_backend(torch.device("cpu"))
    here, nowhere = torch.ones(3), torch.ones(3, device="meta")
    refused(ctx, BAD_TENSOR, backend.allreduce, [nowhere])
    refused(ctx, BAD_TENSOR, backend.broadcast, [nowhere])
    refused(ctx, BAD_TENSOR, backend.allgather, [[here] * (ctx.size - 1) + [nowhere]], [here])
    refused(ctx, BAD_TENSOR, backend.send, [nowhere], 0, 0)
    still_works(ctx)


@multirank(2, 4)
def test_layout(ctx):
    coordinates = torch.eye(3).to_sparse()
    refused(ctx, BAD_TENSOR, dist.broadcast, coordinates, 0, group=ctx.group)
    refused(ctx, BAD_TENSOR, dist.all_reduce, torch.eye(3).to_sparse_csr(), group=ctx.group)
    still_works(ctx)


@multirank(2, 4, gloo=False)
def test_memory_that_overlaps(ctx):
    """An output whose elements share memory has no right result."""
    refused(ctx, BAD_TENSOR, dist.all_reduce, torch.zeros(1).expand(4), group=ctx.group)
    still_works(ctx)


@multirank(2, 4, gloo=False)
def test_sparse_with_another_op(ctx):
    error = refused(ctx, BAD_TENSOR, dist.all_reduce, torch.eye(3).to_sparse(), dist.ReduceOp.MAX, group=ctx.group)
    assert "sparse" in str(error)
    still_works(ctx)


@multirank(2, 4, gloo=False)
def test_all_to_all_onto_itself(ctx):
    """What arrives would replace what is still to be sent."""
    for count in (1, 100_000):
        tensor = torch.arange(float(ctx.size * count))
        refused(ctx, BAD_VALUE, dist.all_to_all_single, tensor, tensor, group=ctx.group)
        assert tensor.tolist() == torch.arange(float(ctx.size * count)).tolist()
    still_works(ctx)
