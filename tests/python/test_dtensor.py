"""Every redistribution of a DTensor, on meshes of one and two dimensions, keeps the full tensor and gives the parts
that chunking it in one process gives. Operations on DTensors and their gradients are those of the full tensors.
"""

import itertools

import torch
from multirank import multirank
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from versions import VERSION

PLACEMENTS = [Shard(0), Shard(1), Replicate(), Partial()]
# Sizes that divide by the number of ranks; fewer rows than ranks, and columns that do not divide.
SHAPES = [(8, 4), (3, 5)]


def mesh_of(ctx):
    # Of the default group, which stays: DTensor keeps what it has derived for a mesh, and uses it for any equal one.
    return init_device_mesh("cpu", (ctx.size,))


def numbers(shape, start=1.0):
    count = torch.Size(shape).numel()
    return torch.arange(start, start + count).reshape(shape)


def part_of(full, mesh, placements):
    """What this rank has of a tensor by these placements; of a Partial, as many shares of the sum as its place says."""
    part = full
    for dim, placement in enumerate(placements):
        index, size = mesh.get_local_rank(dim), mesh.size(dim)
        if isinstance(placement, Shard):
            parts = torch.chunk(part, size, placement.dim)
            part = parts[index] if index < len(parts) else part.narrow(placement.dim, 0, 0)
        elif isinstance(placement, Partial):
            part = part * (index + 1) / sum(range(1, size + 1))
    return part.contiguous()


def divisible(shape):
    """Numbers of which all shares of part_of are whole, so that sums are exact."""
    return numbers(shape) * 900


def distributed(full, mesh, placements):
    return DTensor.from_local(
        part_of(full, mesh, placements),
        mesh,
        placements,
        run_check=False,
        shape=full.shape,
        stride=full.stride(),
    )


def sum_of_partials(ctx, local, mesh, placements):
    """The local tensor, summed over the ranks that differ only in their place in a Partial dimension."""
    places = [mesh.get_local_rank(dim) for dim in range(mesh.ndim)]
    key = [place for place, placement in zip(places, placements, strict=True) if not placement.is_partial()]
    everybody = ctx.exchange([key, local.tolist()])
    return sum(torch.tensor(values).reshape(local.shape) for other, values in everybody if other == key)


def redistributions(dimensions):
    """Placements before and after. What has been replicated does not become partial: torch refuses that, and torch 2.13
    that anything else does."""
    layouts = list(itertools.product(PLACEMENTS, repeat=dimensions))
    for source, target in itertools.product(layouts, layouts):
        becomes = {old for old, new in zip(source, target, strict=True) if new.is_partial()}
        if Replicate() not in becomes and (VERSION >= (2, 14) or becomes <= {Partial()}):
            yield source, target


def check(ctx, mesh, shape, source, target):
    full = divisible(shape)
    before = distributed(full, mesh, source)
    after = before.redistribute(mesh, target)
    assert after.placements == tuple(target)
    assert after.shape == full.shape
    plain = [Replicate() if placement.is_partial() else placement for placement in target]
    actual, expected = sum_of_partials(ctx, after.to_local(), mesh, target), part_of(full, mesh, plain)
    message = f"{source} -> {target} of {shape}"
    assert torch.equal(actual, expected), f"{message}: {actual} is not {expected}"
    assert torch.equal(after.full_tensor(), full), message


@multirank(2, 4)
def test_redistribute_on_one_dimension(ctx):
    mesh = mesh_of(ctx)
    for shape, (source, target) in itertools.product(SHAPES, redistributions(1)):
        check(ctx, mesh, shape, source, target)


@multirank(4)
def test_redistribute_on_two_dimensions(ctx):
    """Also where both dimensions of the mesh shard the same dimension of the tensor."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))
    for source, target in redistributions(2):
        check(ctx, mesh, (3, 5), source, target)


@multirank(2, 4)
def test_partial_reductions(ctx):
    """A Partial of each reduction becomes what torch reduces from all parts, whole or in shards."""
    mesh = mesh_of(ctx)
    parts = [torch.randn(3, 5, generator=torch.Generator().manual_seed(rank)) for rank in range(ctx.size)]
    stack = torch.stack(parts)
    expected = {"sum": stack.sum(0), "avg": stack.mean(0), "max": stack.amax(0), "min": stack.amin(0)}
    for operation, full in expected.items():
        if operation == "avg" and ctx.backend == "gloo":
            continue
        tensor = DTensor.from_local(parts[ctx.rank], mesh, [Partial(operation)], run_check=False)
        for placement in (Replicate(), Shard(0), Shard(1)):
            actual = tensor.redistribute(mesh, [placement]).to_local()
            torch.testing.assert_close(actual, part_of(full, mesh, [placement]), rtol=1e-6, atol=1e-6)


@multirank(2, 4)
def test_distribute_tensor(ctx):
    """The tensor of the first rank is what all get parts of."""
    for mesh in [mesh_of(ctx), init_device_mesh("cpu", (2, ctx.size // 2))]:
        for shape in SHAPES:
            for placements in itertools.product([Shard(0), Shard(1), Replicate()], repeat=mesh.ndim):
                mine = numbers(shape, start=1.0 if ctx.rank == 0 else -100.0)
                tensor = distribute_tensor(mine, mesh, placements)
                assert torch.equal(tensor.to_local(), part_of(numbers(shape), mesh, placements)), placements
                assert torch.equal(tensor.full_tensor(), numbers(shape)), placements


@multirank(2, 4)
def test_operations_and_gradients(ctx):
    """A matrix product, a softmax and a mean over any placements of their inputs, as in one process."""
    mesh = mesh_of(ctx)
    generator = torch.Generator().manual_seed(5)
    left, right = (torch.randn(6, 6, generator=generator).requires_grad_() for _ in range(2))
    torch.softmax(left @ right, dim=1).square().mean().backward()
    for placements in itertools.product([Shard(0), Shard(1), Replicate()], repeat=2):
        inputs = [
            distribute_tensor(tensor.detach().clone(), mesh, [placement]).requires_grad_()
            for tensor, placement in zip((left, right), placements, strict=True)
        ]
        torch.softmax(inputs[0] @ inputs[1], dim=1).square().mean().backward()
        for actual, expected in zip(inputs, (left, right), strict=True):
            torch.testing.assert_close(actual.grad.full_tensor(), expected.grad, rtol=1e-5, atol=1e-6)


@multirank(2, 4)
def test_gradient_of_redistribute(ctx):
    """The gradient comes back in the placement of the input, whatever the output had."""
    mesh = mesh_of(ctx)
    full, gradient = divisible((3, 5)), numbers((3, 5), start=7.0)
    for source, target in itertools.product([Shard(0), Shard(1), Replicate()], repeat=2):
        tensor = distribute_tensor(full.clone(), mesh, [source]).requires_grad_()
        output = tensor.redistribute(mesh, [target])
        output.backward(distribute_tensor(gradient, mesh, [target]))
        assert tensor.grad.placements == (source,)
        assert torch.equal(tensor.grad.full_tensor(), gradient), (source, target)
