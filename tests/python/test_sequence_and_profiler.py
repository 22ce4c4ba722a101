"""Sequence numbers of groups and works, and what the profiler shows."""

import torch
import torch.distributed as dist
from multirank import multirank


def number_of(group):
    return group._get_sequence_number_for_group()


@multirank(1, 2, 4)
def test_collectives_count(ctx):
    before = ctx.same(number_of(ctx.group))
    dist.all_reduce(torch.ones(1), group=ctx.group)
    assert number_of(ctx.group) == before + 1
    dist.broadcast(torch.ones(1), 0, group=ctx.group)
    dist.barrier(ctx.group)
    assert ctx.same(number_of(ctx.group)) == before + 3


@multirank(2, 4)
def test_groups_count_apart(ctx):
    other = ctx.new_group()
    before = number_of(other)
    dist.all_reduce(torch.ones(1), group=ctx.group)
    assert number_of(other) == before


@multirank(2, 4, gloo=False)
def test_messages_do_not_count(ctx):
    """Else the numbers of two ranks that talk would differ from those of the others."""
    before = number_of(ctx.group)
    if ctx.rank == 0:
        dist.send(torch.ones(1), 1, group=ctx.group)
    elif ctx.rank == 1:
        dist.recv(torch.ones(1), 0, group=ctx.group)
    assert ctx.same(number_of(ctx.group)) == before


@multirank(2, 4)
def test_works_carry_their_number(ctx):
    numbers = []
    for _ in range(3):
        work = dist.all_reduce(torch.ones(1), group=ctx.group, async_op=True)
        numbers.append(work._get_sequence_number())
        work.wait()
    assert numbers == list(range(numbers[0], numbers[0] + 3))
    assert ctx.same(numbers)[-1] in (number_of(ctx.group), number_of(ctx.group) - 1)


def profiled(ctx, function, name):
    """The events of this name that calling the function gives."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        function()
    return [event for event in profile.events() if event.name == f"{ctx.backend}:{name}"]


@multirank(2, 4)
def test_profiler_names_and_shapes(ctx):
    size, group = ctx.size, ctx.group
    calls = {
        "all_reduce": lambda: dist.all_reduce(torch.ones(2, 3), group=group),
        "broadcast": lambda: dist.broadcast(torch.ones(2, 3), 0, group=group),
        "reduce": lambda: dist.reduce(torch.ones(2, 3), 0, group=group),
        "all_gather": lambda: dist.all_gather([torch.ones(2, 3) for _ in range(size)], torch.ones(2, 3), group=group),
        "gather": lambda: dist.gather(
            torch.ones(2, 3), [torch.ones(2, 3) for _ in range(size)] if ctx.rank == 0 else None, 0, group=group
        ),
        "all_to_all": lambda: dist.all_to_all_single(torch.ones(size, 3), torch.ones(size, 3), group=group),
    }
    for name, call in calls.items():
        events = profiled(ctx, call, name)
        assert len(events) == 1, f"{name}: {len(events)} events"
        assert events[0].is_async, name
        shapes = {"all_to_all": [[size, 3]]}.get(name, [[2, 3]])
        assert events[0].input_shapes[:1] == shapes, f"{name}: {events[0].input_shapes}"


@multirank(2, 4, gloo=False)
def test_profiler_names_of_the_rest(ctx):
    size, group = ctx.size, ctx.group
    parts = [torch.ones(2) for _ in range(size)]
    calls = {
        "scatter": lambda: dist.scatter(torch.ones(2), parts if ctx.rank == 0 else None, 0, group=group),
        "reduce_scatter": lambda: dist.reduce_scatter(torch.ones(2), parts, group=group),
        "barrier": lambda: dist.barrier(group),
    }
    for name, call in calls.items():
        assert profiled(ctx, call, name), name


@multirank(2, 4)
def test_profiler_names_of_messages(ctx):
    if ctx.rank == 0:
        events = profiled(ctx, lambda: dist.send(torch.ones(2, 3), 1, group=ctx.group), "send")
    elif ctx.rank == 1:
        events = profiled(ctx, lambda: dist.recv(torch.ones(2, 3), 0, group=ctx.group), "recv")
    else:
        return
    assert [event.input_shapes for event in events] == [[[2, 3]]]


@multirank(2)
def test_profiler_name_of_a_receive_from_anybody(ctx):
    if ctx.rank == 0:
        dist.send(torch.ones(2), 1, group=ctx.group)
    else:
        assert profiled(ctx, lambda: dist.recv(torch.ones(2), group=ctx.group), "recvAnySource")
