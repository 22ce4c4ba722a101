"""Sequence numbers of groups and works, and what the profiler shows."""

import torch
import torch.distributed as dist
from multirank import multirank
from versions import sequence_number, since


@since((2, 14), "sequence numbers of groups of other backends")
@multirank(1, 2, 4)
def test_collectives_count(ctx):
    before = ctx.same(ctx.group._get_sequence_number_for_group())
    dist.all_reduce(torch.ones(1), group=ctx.group)
    assert ctx.group._get_sequence_number_for_group() == before + 1
    dist.broadcast(torch.ones(1), 0, group=ctx.group)
    dist.barrier(ctx.group)
    assert ctx.same(ctx.group._get_sequence_number_for_group()) == before + 3


@multirank(2, 4)
def test_groups_count_apart(ctx):
    other = ctx.new_group()
    before = sequence_number(other)
    dist.all_reduce(torch.ones(1), group=ctx.group)
    assert sequence_number(other) == before


@multirank(2, 4, gloo=False)
def test_messages_do_not_count(ctx):
    """Else the numbers of two ranks that talk would differ from those of the others."""
    before = sequence_number(ctx.group)
    if ctx.rank == 0:
        dist.send(torch.ones(1), 1, group=ctx.group)
    elif ctx.rank == 1:
        dist.recv(torch.ones(1), 0, group=ctx.group)
    assert ctx.same(sequence_number(ctx.group)) == before


@since((2, 14), "numbers of works")
@multirank(2, 4)
def test_works_carry_their_number(ctx):
    numbers = []
    for _ in range(3):
        work = dist.all_reduce(torch.ones(1), group=ctx.group, async_op=True)
        numbers.append(work._get_sequence_number())
        work.wait()
    assert numbers == list(range(numbers[0], numbers[0] + 3))
    assert ctx.same(numbers)[-1] in (sequence_number(ctx.group), sequence_number(ctx.group) - 1)


def profiled(ctx, *functions):
    """The events that calling the functions gives, by the part of their name that follows the backend's."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        for function in functions:
            function()
    prefix = f"{ctx.backend}:"
    events = {}
    for event in profile.events():
        if event.name.startswith(prefix):
            events.setdefault(event.name.removeprefix(prefix), []).append(event)
    return events


@multirank(2, 4)
def test_profiler_names_and_shapes(ctx):
    size, group = ctx.size, ctx.group
    parts = [torch.ones(2, 3) for _ in range(size)]
    events = profiled(
        ctx,
        lambda: dist.all_reduce(torch.ones(2, 3), group=group),
        lambda: dist.broadcast(torch.ones(2, 3), 0, group=group),
        lambda: dist.reduce(torch.ones(2, 3), 0, group=group),
        lambda: dist.all_gather(parts, torch.ones(2, 3), group=group),
        lambda: dist.gather(torch.ones(2, 3), parts if ctx.rank == 0 else None, 0, group=group),
        lambda: dist.all_to_all_single(torch.ones(size, 3), torch.ones(size, 3), group=group),
    )
    for name in ("all_reduce", "broadcast", "reduce", "all_gather", "gather", "all_to_all"):
        (event,) = events[name]
        assert event.is_async, name
        shapes = [[size, 3]] if name == "all_to_all" else [[2, 3]]
        assert event.input_shapes[:1] == shapes, f"{name}: {event.input_shapes}"


@multirank(2, 4, gloo=False)
def test_profiler_names_of_the_rest(ctx):
    size, group = ctx.size, ctx.group
    parts = [torch.ones(2) for _ in range(size)]
    events = profiled(
        ctx,
        lambda: dist.scatter(torch.ones(2), parts if ctx.rank == 0 else None, 0, group=group),
        lambda: dist.reduce_scatter(torch.ones(2), parts, group=group),
        lambda: dist.barrier(group),
    )
    assert {"scatter", "reduce_scatter", "barrier"} <= set(events)


@multirank(2, 4)
def test_profiler_names_of_messages(ctx):
    if ctx.rank == 0:
        events = profiled(ctx, lambda: dist.send(torch.ones(2, 3), 1, group=ctx.group))["send"]
    elif ctx.rank == 1:
        events = profiled(ctx, lambda: dist.recv(torch.ones(2, 3), 0, group=ctx.group))["recv"]
    else:
        return
    assert [event.input_shapes for event in events] == [[[2, 3]]]


@multirank(2)
def test_profiler_name_of_a_receive_from_anybody(ctx):
    if ctx.rank == 0:
        dist.send(torch.ones(2), 1, group=ctx.group)
    else:
        assert "recvAnySource" in profiled(ctx, lambda: dist.recv(torch.ones(2), group=ctx.group))
