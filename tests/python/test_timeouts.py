"""Timeouts: of an operation and of a wait. The error says which operation of which group waited for how long."""

import re
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from multirank import multirank
from versions import VERSION, sequence_number

SHORT = timedelta(seconds=1)
HOUR = timedelta(hours=1)


def check_message(error, operation, group, sequence=None):
    message = str(error)
    assert operation in message, message
    assert group.group_name in message or group.group_desc in message, message
    assert re.search(r"\d+(\.\d+)? ?(ms|milliseconds|s\b|seconds)", message), message
    if sequence is not None:
        found = re.search(r"sequence number (\d+)", message)
        assert found, message
        assert int(found[1]) == sequence, message


def late_rank(ctx, test):
    """Runs `test` on all ranks but 0, which only waits until they have done it."""
    if ctx.rank != 0:
        test()
    ctx.exchange()


@multirank(2, 4, gloo=False)
def test_an_operation_times_out(ctx):
    group = ctx.new_group(timeout=SHORT, group_desc="hurried")
    dist.all_reduce(torch.ones(1), group=group)

    def test():
        number = sequence_number(group)
        work = dist.all_reduce(torch.ones(1), group=group, async_op=True)
        assert VERSION < (2, 14) or work._get_sequence_number() == number
        with pytest.raises(dist.DistBackendError) as caught:
            work.wait()
        check_message(caught.value, "all_reduce", group, number)
        assert work.is_completed()
        assert not work.is_success()
        with pytest.raises(dist.DistBackendError):
            work.get_future().wait()

    late_rank(ctx, test)


@multirank(2, 4, gloo=False)
def test_every_operation_times_out(ctx):
    operations = {
        "broadcast": lambda group: dist.broadcast(torch.ones(9), 0, group=group),
        "all_reduce": lambda group: dist.all_reduce(torch.ones(9), group=group),
        "all_gather": lambda group: dist.all_gather([torch.ones(1) for _ in range(ctx.size)], torch.ones(1), group),
        "scatter": lambda group: dist.scatter(torch.ones(1), None, 0, group=group),
        "reduce_scatter": lambda group: dist.reduce_scatter_tensor(torch.ones(1), torch.ones(ctx.size), group=group),
        "all_to_all": lambda group: dist.all_to_all_single(torch.ones(ctx.size), torch.ones(ctx.size), group=group),
        "barrier": dist.barrier,
        "recv": lambda group: dist.recv(torch.ones(1), 0, group=group),
    }
    groups = {name: ctx.new_group(timeout=SHORT) for name in operations}
    # All started at once, so that all together take no longer than one.
    errors = {}
    if ctx.rank != 0:
        import threading

        def run(name):
            try:
                operations[name](groups[name])
            except dist.DistBackendError as error:
                errors[name] = error

        threads = [threading.Thread(target=run, args=(name,)) for name in operations]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ctx.exchange()
    if ctx.rank != 0:
        assert set(errors) == set(operations)
        for name, error in errors.items():
            check_message(error, name, groups[name])


@multirank(2, 4, gloo=False)
def test_later_operations_of_that_group_fail_at_once(ctx):
    group = ctx.new_group(timeout=SHORT)

    def test():
        with pytest.raises(dist.DistBackendError):
            dist.all_reduce(torch.ones(1), group=group)
        # With this timeout an operation that waits would run into the limit of the test.
        group.set_timeout(HOUR)
        for operation in (
            lambda: dist.all_reduce(torch.ones(1), group=group),
            lambda: dist.barrier(group),
            lambda: dist.broadcast(torch.ones(1), 0, group=group),
        ):
            with pytest.raises(dist.DistBackendError):
                operation()

    late_rank(ctx, test)


@multirank(2, 4, gloo=False)
def test_other_groups_go_on(ctx):
    hurried, calm = ctx.new_group(timeout=SHORT), ctx.new_group()

    def test():
        with pytest.raises(dist.DistBackendError):
            dist.all_reduce(torch.ones(1), group=hurried)

    late_rank(ctx, test)
    for _ in range(5):
        tensor = torch.ones(1000)
        dist.all_reduce(tensor, group=calm)
        assert tensor[0] == ctx.size
    fresh = ctx.new_group()
    tensor = torch.ones(1000)
    dist.all_reduce(tensor, group=fresh)
    assert tensor[0] == ctx.size


@multirank(2, 4, gloo=False)
def test_wait_times_out(ctx):
    # The operation itself goes on until its own timeout, for which destroying the group waits.
    group = ctx.new_group(timeout=timedelta(seconds=3))

    def test():
        number = sequence_number(group)
        work = dist.all_reduce(torch.ones(1), group=group, async_op=True)
        assert VERSION < (2, 14) or work._get_sequence_number() == number
        with pytest.raises(dist.DistBackendError) as caught:
            work.wait(SHORT)
        check_message(caught.value, "all_reduce", group, number)

    late_rank(ctx, test)


@multirank(2, 4, gloo=False)
def test_recv_times_out_and_names_the_source(ctx):
    group = ctx.new_group(timeout=SHORT)

    def test():
        with pytest.raises(dist.DistBackendError, match=r"(rank|from) 0") as caught:
            dist.recv(torch.ones(1), 0, group=group)
        check_message(caught.value, "recv", group)

    late_rank(ctx, test)


@multirank(2, 4)
def test_timeout_of_a_barrier(ctx):
    def test():
        with pytest.raises(RuntimeError):
            dist.barrier(ctx.group, timeout=SHORT)

    late_rank(ctx, test)


@multirank(2, 4, gloo=False)
def test_timeout_set_later(ctx):
    ctx.group._get_backend(torch.device("cpu")).set_timeout(SHORT)

    def test():
        with pytest.raises(dist.DistBackendError):
            dist.all_reduce(torch.ones(1), group=ctx.group)

    late_rank(ctx, test)


@multirank(2, 4, gloo=False)
def test_a_group_that_a_member_never_joins(ctx):
    """Creating it fails on the others, with the ranks that are missing, and the process goes on."""

    def test():
        with pytest.raises(dist.DistError, match=r"\b0\b"):
            dist.new_group(list(range(ctx.size)), timeout=SHORT, use_local_synchronization=True)

    late_rank(ctx, test)
    tensor = torch.ones(1)
    dist.all_reduce(tensor, group=ctx.group)
    assert tensor[0] == ctx.size
