"""Tensors that the other processes of the node can map: what they are, and that every operation is right with them."""

import gc
import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from multirank import multirank

CPU = torch.device("cpu")
# Some pieces of slots, and not a whole number of them.
COUNT = (1 << 20) + 77


def backend(group):
    return group._get_backend(CPU)


def allocate(group, count, dtype=torch.float32):
    return backend(group).allocate_tensor(count, dtype=dtype, device=CPU)


def filled(group, count, value, shared):
    tensor = allocate(group, count) if shared else torch.empty(count)
    tensor.copy_(torch.arange(count) % 1000 + value)
    return tensor


def expected(count, value):
    return (torch.arange(count) % 1000 + value).float()


@multirank(1, 2, gloo=False)
def test_what_is_allocated(ctx):
    assert backend(ctx.group).supports_tensor_alloc(CPU)
    assert backend(ctx.group).mem_allocator is not None
    for dtype in (torch.float32, torch.bfloat16, torch.bool, torch.complex128, torch.int8):
        tensor = allocate(ctx.group, 1000, dtype)
        assert (tensor.shape, tensor.dtype, tensor.device) == ((1000,), dtype, CPU)
        assert tensor.data_ptr() % 64 == 0
        tensor.fill_(1)
        assert tensor.to(torch.complex128).sum() == 1000
        # It is an ordinary tensor in any other way.
        assert torch.equal(tensor.view(10, 100).T.contiguous().T, tensor.view(10, 100))
        assert tensor.clone().resize_(2000).shape == (2000,)
        assert tensor.resize_(2000).shape == (2000,)
    assert allocate(ctx.group, 0).shape == (0,)


@multirank(1, gloo=False)
def test_what_cannot_be_allocated(ctx):
    with pytest.raises(ValueError, match="-1 elements"):
        allocate(ctx.group, -1)
    with pytest.raises(ValueError, match="device is meta"):
        backend(ctx.group).allocate_tensor(1, dtype=torch.float32, device=torch.device("meta"))
    with pytest.raises((NotImplementedError, ValueError, RuntimeError)):
        allocate(ctx.group, 1 << 55)
    assert allocate(ctx.group, 10).fill_(1).sum() == 10


@multirank(1, gloo=False)
def test_memory_comes_back(ctx):
    gc.collect()
    before = backend(ctx.group).memory_stats()
    small = [allocate(ctx.group, 100) for _ in range(1000)]
    assert backend(ctx.group).memory_stats()["tensor_bytes"] - before["tensor_bytes"] == 1000 * 448
    del small
    resident = 0
    for turn in range(50):
        large = allocate(ctx.group, 20 << 20, torch.int32)
        assert large.fill_(1).sum() == 20 << 20
        assert backend(ctx.group).memory_stats()["tensor_reserved_bytes"] >= large.nbytes
        del large
        lines = Path("/proc/self/status").read_text().splitlines()
        now = next(int(line.split()[1]) for line in lines if line.startswith("RssShmem"))
        resident = resident or now
        assert now < resident + (64 << 10), f"{now} KiB in turn {turn}"
    after = backend(ctx.group).memory_stats()
    assert after["tensor_bytes"] == before["tensor_bytes"]
    assert after["tensor_reserved_bytes"] <= max(before["tensor_reserved_bytes"], 256 << 20)


@multirank(1, gloo=False)
def test_a_forked_child_reads_it_and_frees_nothing(ctx):
    tensor = allocate(ctx.group, 1000).fill_(3)
    ready, go_on = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            right = tensor.sum().item() == 3000
            # Memory of its own, which its parent does not give to others.
            tensor.resize_(7000).fill_(9)
            os.write(go_on, b"x")
            time.sleep(0.5)
            right = right and (tensor == 9).all().item()
            del tensor
            gc.collect()
            status = 0 if right else 2
        finally:
            os._exit(status)
    os.read(ready, 1)
    others = [allocate(ctx.group, 1000).fill_(4) for _ in range(100)]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all(other.sum() == 4000 for other in others)
    assert tensor.sum() == 3000
    os.close(ready)
    os.close(go_on)


@multirank(2, 3, 4, gloo=False)
def test_every_operation(ctx):
    """In such memory on all ranks, on none, on the first, on all but the first."""
    group, size, rank = ctx.new_group(), ctx.size, ctx.rank
    for shared in (True, False, rank == 0, rank != 0):
        own = filled(group, COUNT, rank, shared)

        def blocks(factor=1, shared=shared):
            return allocate(group, factor * COUNT) if shared else torch.empty(factor * COUNT)

        outputs = blocks(size).fill_(-1)
        dist.all_gather_into_tensor(outputs, own, group=group)
        for peer in range(size):
            assert torch.equal(outputs[peer * COUNT : (peer + 1) * COUNT], expected(COUNT, peer))
        reduced = blocks().fill_(-1)
        dist.reduce_scatter_tensor(reduced, outputs, group=group)
        assert torch.equal(reduced, size * expected(COUNT, rank))
        tensor = filled(group, COUNT, rank, shared)
        dist.broadcast(tensor, size - 1, group=group)
        assert torch.equal(tensor, expected(COUNT, size - 1))
        dist.all_reduce(own, group=group)
        assert torch.equal(own, sum(expected(COUNT, peer) for peer in range(size)))
        exchanged = blocks(size).fill_(-1)
        for peer in range(size):
            outputs[peer * COUNT : (peer + 1) * COUNT] = expected(COUNT, 10 * rank + peer)
        dist.all_to_all_single(exchanged, outputs, group=group)
        for peer in range(size):
            assert torch.equal(exchanged[peer * COUNT : (peer + 1) * COUNT], expected(COUNT, 10 * peer + rank))
        received = [blocks().fill_(-1) for _ in range(size)] if rank == 0 else None
        dist.gather(tensor, received, 0, group=group)
        assert all(torch.equal(part, expected(COUNT, size - 1)) for part in received or [])
        parts = [filled(group, COUNT, 100 * peer, shared) for peer in range(size)] if rank == 0 else None
        dist.scatter(tensor, parts, 0, group=group)
        assert torch.equal(tensor, expected(COUNT, 100 * rank))
        # The memory is the caller's again at once.
        for part in [own, outputs, exchanged, *(parts or [])]:
            part.fill_(-2)


@multirank(2, gloo=False)
def test_memory_that_was_freed_and_used_again(ctx):
    """A peer has the arena mapped, and finds new data there."""
    group = ctx.new_group()
    for turn in range(20):
        count = (2 << 20) + 64 * turn
        own = filled(group, count, turn + ctx.rank, True)
        outputs = allocate(group, count * ctx.size)
        dist.all_gather_into_tensor(outputs, own, group=group)
        for peer in range(ctx.size):
            assert torch.equal(outputs[peer * count : (peer + 1) * count], expected(count, turn + peer)), turn
        del own, outputs


@multirank(2, gloo=False)
def test_slices_of_one_tensor(ctx):
    group = ctx.new_group()
    whole = allocate(group, 4 * COUNT).fill_(-1)
    own = whole[:COUNT].fill_(ctx.rank + 1)
    output = whole[COUNT : 3 * COUNT]
    dist.all_gather_into_tensor(output, own, group=group)
    assert torch.equal(output, torch.tensor([1.0, 2.0]).repeat_interleave(COUNT))
    assert (whole[3 * COUNT :] == -1).all()
    assert (own == ctx.rank + 1).all()
