"""Work objects: completion, results, futures, callbacks, dropped and shared ones."""

import threading
import time
import weakref
from datetime import timedelta

import numpy
import pytest
import torch
import torch.distributed as dist
from multirank import multirank


def issue(ctx, value=1.0, count=10, group=None):
    tensor = torch.full((count,), value)
    return tensor, dist.all_reduce(tensor, group=group or ctx.group, async_op=True)


@multirank(1, 2, 4)
def test_wait_completes(ctx):
    tensor, work = issue(ctx)
    assert work.wait() is True
    work.synchronize()
    assert work.is_completed()
    assert work.is_success()
    assert work.exception() is None
    assert tensor[0] == ctx.size
    # Once more is allowed, and gives the same.
    assert work.wait() is True


@multirank(2, 4)
def test_not_completed_before_the_last_rank_comes(ctx):
    if ctx.rank == 0:
        ctx.exchange()
        tensor, work = issue(ctx)
    else:
        tensor, work = issue(ctx)
        assert not work.is_completed()
        ctx.exchange()
    work.wait()
    assert tensor[0] == ctx.size


@multirank(2, 4)
def test_completes_although_nobody_waits(ctx):
    """Somebody drives the operation: `is_completed` turns true on its own."""
    tensor, work = issue(ctx)
    while not work.is_completed():
        pass
    assert tensor[0] == ctx.size


@multirank(2, gloo=False)
def test_one_class_for_every_work(ctx):
    """Registered with pybind11 under torch's: also what torch hands on as its own Work, and a batch."""
    from torch_rmpi._C import Work

    assert issubclass(Work, dist.Work)
    _, issued = issue(ctx)
    plain = dist.distributed_c10d._get_default_group().allreduce([torch.ones(2)])
    buffer = torch.zeros(1)
    batch = dist.batch_isend_irecv(
        [
            dist.P2POp(dist.isend, torch.full((1,), float(ctx.rank)), 1 - ctx.rank),
            dist.P2POp(dist.irecv, buffer, 1 - ctx.rank),
        ]
    )
    for work in (issued, plain, *batch):
        assert type(work) is Work
        work.wait()
    assert buffer.item() == 1 - ctx.rank


@multirank(2, 4)
def test_result_is_the_outputs(ctx):
    tensor, work = issue(ctx)
    work.wait()
    (result,) = work.result()
    assert result.data_ptr() == tensor.data_ptr()
    outputs = [torch.zeros(2) for _ in range(ctx.size)]
    work = dist.all_gather(outputs, torch.full((2,), float(ctx.rank)), group=ctx.group, async_op=True)
    work.wait()
    flat = torch.cat([tensor.reshape(-1) for tensor in flatten(work.result())])
    assert torch.equal(flat, torch.arange(ctx.size).float().repeat_interleave(2))


def flatten(nested):
    return [nested] if isinstance(nested, torch.Tensor) else [leaf for part in nested for leaf in flatten(part)]


@multirank(2, 4)
def test_future(ctx):
    tensor, work = issue(ctx)
    future = work.get_future()
    (value,) = flatten(future.wait())
    assert value.data_ptr() == tensor.data_ptr()
    assert value[0] == ctx.size
    assert future.done()


@multirank(2, 4)
def test_then(ctx):
    _, work = issue(ctx)
    doubled = work.get_future().then(lambda future: flatten(future.value())[0] * 2)
    again = doubled.then(lambda future: future.value() + 1)
    assert again.wait()[0] == 2 * ctx.size + 1


@multirank(2, 4)
def test_then_after_completion(ctx):
    _, work = issue(ctx)
    work.wait()
    assert work.get_future().then(lambda future: flatten(future.value())[0].sum()).wait() == 10 * ctx.size


@multirank(2, 4)
def test_an_error_in_a_callback_stays_in_its_future(ctx):
    def fail(future):
        raise ZeroDivisionError("on purpose")

    _, work = issue(ctx)
    future = work.get_future().then(fail)
    with pytest.raises(Exception, match="on purpose"):
        future.wait()
    tensor, work = issue(ctx)
    work.wait()
    assert tensor[0] == ctx.size


@multirank(2, 4, gloo=False)
def test_a_callback_may_communicate(ctx):
    other = ctx.new_group()

    def again(future):
        tensor = flatten(future.value())[0].clone()
        dist.all_reduce(tensor, group=other)
        return tensor

    _, work = issue(ctx)
    assert work.get_future().then(again).wait()[0] == ctx.size**2


@multirank(2, 4)
def test_collect_all(ctx):
    works = [issue(ctx, float(index))[1] for index in range(20)]
    values = torch.futures.wait_all([work.get_future() for work in works])
    assert [flatten(value)[0][0].item() for value in values] == [index * ctx.size for index in range(20)]


@multirank(2, 4, gloo=False)
def test_operations_of_a_group_end_in_order(ctx):
    works = [issue(ctx, count=1 + 5000 * (index % 3))[1] for index in range(60)]
    works[-1].wait()
    assert all(work.is_completed() for work in works)


@multirank(2, 4)
def test_waiting_in_any_order(ctx):
    pairs = [issue(ctx, float(index)) for index in range(20)]
    for index in reversed(range(20)):
        tensor, work = pairs[index]
        work.wait()
        assert tensor[0] == index * ctx.size


@multirank(2, 4)
def test_dropped_works_still_run(ctx):
    tensors = [issue(ctx, float(index))[0] for index in range(200)]
    _, last = issue(ctx)
    last.wait()
    dist.barrier(ctx.group)
    for index, tensor in enumerate(tensors):
        assert tensor[0] == index * ctx.size


@multirank(2, 4)
def test_dropped_works_are_reaped(ctx):
    """Nothing keeps the memory of a tensor once its operation has ended and nobody holds it."""
    references = []
    for _ in range(50):
        array = numpy.ones(1000, dtype=numpy.float32)
        dist.all_reduce(torch.from_numpy(array), group=ctx.group, async_op=True)
        references.append(weakref.ref(array))
        del array
    dist.barrier(ctx.group)
    # The thread that completes an operation may be about to let go of it. The limit of the test bounds this.
    while any(reference() is not None for reference in references):
        pass


@multirank(2, 4, gloo=False)
def test_a_tensor_lives_while_its_operation_runs(ctx):
    """Nobody holds the tensor or the work, yet the operation reads memory that is still its own."""
    if ctx.rank == 0:
        received = torch.zeros(100_000)
        ctx.exchange()
        dist.recv(received, 1, group=ctx.group)
        assert torch.equal(received, torch.full((100_000,), 5.0))
    else:
        if ctx.rank == 1:
            dist.isend(torch.full((100_000,), 5.0), 0, group=ctx.group)
        other = [torch.full((100_000,), 6.0) for _ in range(5)]
        ctx.exchange()
        del other
    dist.barrier(ctx.group)


@multirank(2, 4)
def test_wait_in_another_thread(ctx):
    tensor, work = issue(ctx)
    threads = [threading.Thread(target=work.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    work.wait()
    for thread in threads:
        thread.join()
    assert tensor[0] == ctx.size


@multirank(2, 4)
def test_wait_with_a_timeout_that_is_long_enough(ctx):
    tensor, work = issue(ctx)
    assert work.wait(timedelta(seconds=30))
    assert tensor[0] == ctx.size


@multirank(2, 4, gloo=False)
def test_future_result(ctx):
    _, work = issue(ctx)
    if hasattr(work, "get_future_result"):
        # 0 is WorkResult.SUCCESS, which Python has no name for.
        assert int(work.get_future_result().wait()) == 0
    work.wait()


@multirank(1, 2, 4, gloo=False)
def test_a_callback_may_wait_for_another_future(ctx):
    """As comm hooks do. Whoever runs the callback drives nothing meanwhile, so somebody else has to."""
    tensor = torch.ones(10)

    def once_more(_):
        return dist.all_reduce(tensor, group=ctx.group, async_op=True).get_future().wait()

    # Run by the background thread, and by a thread that waits.
    dist.all_reduce(tensor, group=ctx.group, async_op=True).get_future().then(once_more).wait()
    work = dist.all_reduce(tensor, group=ctx.group, async_op=True)
    future = work.get_future().then(once_more)
    work.wait()
    future.wait()
    # A callback within a callback.
    work = dist.all_reduce(tensor, group=ctx.group, async_op=True)
    work.get_future().then(lambda _: issue(ctx)[1].get_future().then(once_more).wait()).wait()
    assert tensor[0] == ctx.size**6


@multirank(2, 4, gloo=False)
def test_a_tensor_may_be_given_other_memory(ctx):
    """What is under way goes on in the memory that it began with."""
    count = 1_000_000
    if ctx.rank == 0:
        ctx.exchange()
        for peer in range(1, ctx.size):
            dist.send(torch.ones(count), peer, group=ctx.group)
    else:
        tensor = torch.zeros(count)
        work = dist.irecv(tensor, 0, group=ctx.group)
        tensor.data = torch.zeros(3)
        others = [torch.zeros(count) for _ in range(4)]
        ctx.exchange()
        work.wait()
        assert tensor.tolist() == [0, 0, 0]
        assert not any(other.any() for other in others)


@multirank(2, 4, gloo=False)
def test_no_callback_runs_in_a_call_that_issues_or_waits(ctx):
    """The caller may hold a lock that the callback takes."""
    groups, lock = [dist.new_group(), dist.new_group()], threading.Lock()

    def locked(_):
        with lock:
            pass

    for _ in range(100):
        future = issue(ctx, group=groups[0])[1].get_future().then(locked)
        with lock:
            _, work = issue(ctx, group=groups[1])
            work.wait()
            dist.barrier(groups[0])
        future.wait()


@multirank(2, 4, gloo=False)
def test_callbacks_of_two_groups_wait_for_their_successors(ctx):
    groups = [dist.new_group() for _ in range(2)]

    def chained(group, depth):
        def callback(_):
            if depth:
                issue(ctx, group=group)[1].get_future().then(chained(group, depth - 1)).wait()

        return callback

    for _ in range(50):
        futures = [issue(ctx, group=group)[1].get_future().then(chained(group, 3)) for group in groups]
        for future in futures:
            future.wait()


@multirank(2, gloo=False)
def test_destroying_a_group_in_a_callback_of_its_own(ctx):
    group = dist.new_group()
    begun = time.monotonic()
    future = issue(ctx, group=group)[1].get_future()
    future.then(lambda _: dist.destroy_process_group(group)).wait()
    assert time.monotonic() - begun < 5
