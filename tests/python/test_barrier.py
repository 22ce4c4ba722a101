"""dist.barrier, and monitored_barrier, which names the ranks that did not come."""

import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from multirank import multirank


@multirank(1, 2, 3, 4)
def test_nobody_leaves_before_all_have_come(ctx):
    for turn in range(20):
        ctx.store.add(f"arrived/{turn}", 1)
        dist.barrier(ctx.group)
        assert ctx.store.add(f"arrived/{turn}", 0) == ctx.size


@multirank(2, 4)
def test_async(ctx):
    work = dist.barrier(ctx.group, async_op=True)
    work.wait()
    assert work.is_completed()


@multirank(2, 4)
def test_an_async_barrier_does_not_end_early(ctx):
    if ctx.rank == 0:
        ctx.store.wait(["looked"])
        dist.barrier(ctx.group)
    else:
        work = dist.barrier(ctx.group, async_op=True)
        assert not work.is_completed()
        ctx.store.add("looks", 1)
        if ctx.rank == 1:
            # Every other rank has looked by then, so rank 0 may come.
            while ctx.store.add("looks", 0) < ctx.size - 1:
                pass
            ctx.store.set("looked", "1")
        work.wait()


@multirank(1, 2, 3, 4)
def test_monitored_when_all_come(ctx):
    for wait_all_ranks in (False, True):
        ctx.group.monitored_barrier(timedelta(seconds=30), wait_all_ranks=wait_all_ranks)
        tensor = torch.ones(3)
        dist.all_reduce(tensor, group=ctx.group)
        assert tensor[0] == ctx.size


@multirank(2, 3, 4)
def test_monitored_names_the_missing_rank(ctx):
    missing = ctx.size - 1
    if ctx.rank == 0:
        with pytest.raises(RuntimeError, match=rf"[Rr]ank {missing} failed to pass monitoredBarrier"):
            ctx.group.monitored_barrier(timedelta(seconds=1))
    elif ctx.rank != missing:
        with pytest.raises(RuntimeError, match="monitoredBarrier"):
            ctx.group.monitored_barrier(timedelta(seconds=2))
    ctx.exchange()


@multirank(3, 4)
def test_monitored_names_all_missing_ranks(ctx):
    if ctx.rank == 0:
        names = ", ".join(str(rank) for rank in range(1, ctx.size))
        with pytest.raises(RuntimeError, match=f"[Rr]anks {names} failed to pass monitoredBarrier"):
            ctx.group.monitored_barrier(timedelta(seconds=1), wait_all_ranks=True)
    ctx.exchange()


@multirank(2, 3, 4, gloo=False)
def test_monitored_names_a_rank_that_has_failed_at_once(ctx):
    """Where memory is shared with it: nobody waits for the timeout."""
    group, last = ctx.new_group(timeout=timedelta(hours=1)), ctx.size - 1
    dist.barrier(group)
    if ctx.rank == last:
        group._get_backend(torch.device("cpu")).abort()
    elif os.environ.get("RMPI_TEST_NODES") is None:
        with pytest.raises(RuntimeError, match=rf"monitoredBarrier(.|\n)*rank {last} has failed"):
            group.monitored_barrier(timedelta(minutes=50))
    ctx.exchange()
