"""Several operations as one: all_reduce_coalesced, the coalescing manager, start and end of coalescing."""

import weakref
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from multirank import multirank
from references import any_bits, assert_same_bits, values
from versions import sequence_number

CPU = torch.device("cpu")


def manager_of(ctx, device=None):
    return dist.distributed_c10d._coalescing_manager(ctx.group, device, async_ops=True)


def given(rank, count):
    return values(torch.float32, count, 41, rank)


def summed(ctx, count):
    return sum(given(rank, count) for rank in range(ctx.size))


@multirank(1, 2, 3, 4)
def test_all_reduce_coalesced(ctx):
    counts = [1, 0, 777, 20_000]
    tensors = [given(ctx.rank, count) for count in counts]
    ctx.group.allreduce_coalesced(tensors).wait()
    for tensor, count in zip(tensors, counts, strict=True):
        assert torch.equal(tensor, summed(ctx, count))


@multirank(2, gloo=False)
def test_results_of_a_batch_are_those_of_its_members(ctx):
    tensors = [given(ctx.rank, count) for count in (3, 500)]
    work = ctx.group.allreduce_coalesced(tensors)
    future = work.get_future()
    work.wait()
    for results in (work.result(), future.wait()):
        assert [result.data_ptr() for result in results] == [tensor.data_ptr() for tensor in tensors]


@multirank(2, gloo=False)
def test_a_batch_fails_with_its_member(ctx):
    group = ctx.new_group(timeout=timedelta(milliseconds=500))
    if ctx.rank == 0:
        work = group.allreduce_coalesced([torch.ones(1), torch.ones(2)])
        with pytest.raises(dist.DistBackendError, match="all_reduce"):
            work.wait()
        assert not work.is_success()
        with pytest.raises(dist.DistBackendError, match="all_reduce"):
            raise work.exception()
    ctx.exchange()


@multirank(2, 4)
def test_manager_with_all_reduce(ctx):
    counts = [5, 3000]
    tensors = [given(ctx.rank, count) for count in counts]
    with manager_of(ctx) as manager:
        for tensor in tensors:
            dist.all_reduce(tensor, group=ctx.group)
    manager.wait()
    for tensor, count in zip(tensors, counts, strict=True):
        assert torch.equal(tensor, summed(ctx, count))


@multirank(2, 4, gloo=False)
def test_start_and_end_with_collectives(ctx):
    summand, moved = given(ctx.rank, 100), any_bits(torch.int32, 100, ctx.rank)
    with manager_of(ctx, CPU) as manager:
        ctx.group.allreduce([summand])
        ctx.group.broadcast(moved, root=1)
    manager.wait()
    assert torch.equal(summand, summed(ctx, 100))
    assert_same_bits(moved, any_bits(torch.int32, 100, 1))


@multirank(2, 4, gloo=False)
def test_start_and_end_with_messages(ctx):
    """In whatever order sends and receives are named, they do not deadlock."""
    following, previous = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    received = torch.zeros(50_000, dtype=torch.int32)
    with manager_of(ctx, CPU) as manager:
        ctx.group.recv([received], previous, 0)
        ctx.group.send([any_bits(torch.int32, 50_000, ctx.rank)], following, 0)
    manager.wait()
    assert_same_bits(received, any_bits(torch.int32, 50_000, previous))


@multirank(2, 4, gloo=False)
def test_nothing_of_a_batch_moves_if_one_is_refused(ctx):
    good, bad = torch.ones(4, dtype=torch.int32), torch.ones(4)
    before = sequence_number(ctx.group)
    options = dist.AllreduceCoalescedOptions()
    options.reduceOp = dist.ReduceOp.BOR
    with pytest.raises(TypeError, match=r"BOR.*float32"):
        ctx.group.allreduce_coalesced([good, bad], options)
    assert good.tolist() == [1] * 4
    assert sequence_number(ctx.group) == before


@multirank(2, 4, gloo=False)
def test_a_batch_ends_with_an_operation_that_is_refused(ctx):
    """torch leaves it open then; what comes later must not fall into it."""
    following = (ctx.rank + 1) % ctx.size
    ctx.group._start_coalescing(CPU)
    ctx.group.send([torch.ones(3)], following, 0)
    with pytest.raises(ValueError, match="tag"):
        ctx.group.send([torch.ones(3)], following, -1)
    received = torch.zeros(3)
    ctx.group.recv([received], (ctx.rank - 1) % ctx.size, 0).wait()
    assert received.tolist() == [1] * 3
    # Whoever does end it gets what was issued.
    ctx.group._end_coalescing(CPU).wait()
    with pytest.raises(RuntimeError, match="without startCoalescing"):
        ctx.group._end_coalescing(CPU)
    # A synchronous operation waits, and nobody keeps what it has used.
    tensor = torch.ones(3)
    work = ctx.group.allreduce([tensor])
    work.wait()
    assert tensor[0] == ctx.size
    reference = weakref.ref(tensor)
    del work, tensor
    assert reference() is None
