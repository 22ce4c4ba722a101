"""send, recv, isend, irecv: order, tags, any source, large messages, messages to oneself, batches."""

import contextlib

import pytest
import torch
import torch.distributed as dist
from multirank import multirank
from references import COUNTS, any_bits, assert_same_bits


def message(count, source, index=0):
    return any_bits(torch.float32, count, 31, source, index)


def around(ctx):
    """The next and the previous rank."""
    return (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size


@multirank(2, 3, 4)
def test_blocking_along_a_chain(ctx):
    for count in COUNTS:
        received = torch.zeros(count)
        if ctx.rank > 0:
            assert dist.recv(received, ctx.rank - 1, group=ctx.group) == ctx.rank - 1
            assert_same_bits(received, message(count, 0))
        else:
            received = message(count, 0)
        if ctx.rank < ctx.size - 1:
            dist.send(received, ctx.rank + 1, group=ctx.group)


@multirank(2, 3, 4)
def test_large_messages_in_both_directions(ctx):
    following, previous = around(ctx)
    count = 2 << 20
    received = torch.zeros(count)
    works = [
        dist.isend(message(count, ctx.rank), following, group=ctx.group),
        dist.irecv(received, previous, group=ctx.group),
    ]
    for work in works:
        work.wait()
    assert_same_bits(received, message(count, previous))


@multirank(2, 4)
def test_messages_of_a_pair_keep_their_order(ctx):
    """Small and large ones, in the order in which they were sent."""
    following, previous = around(ctx)
    counts = [1, 200_000, 3, 0, 50_000, 2] * 5
    received = [torch.zeros(count) for count in counts]
    works = [dist.irecv(tensor, previous, group=ctx.group) for tensor in received]
    works += [
        dist.isend(message(count, ctx.rank, index), following, group=ctx.group) for index, count in enumerate(counts)
    ]
    for work in works:
        work.wait()
    for index, count in enumerate(counts):
        assert_same_bits(received[index], message(count, previous, index))


@multirank(2, 4)
def test_tags_choose_the_message(ctx):
    following, previous = around(ctx)
    tags = [7, 0, 123_456, 1]
    sending = [dist.isend(torch.full((2,), float(tag)), following, group=ctx.group, tag=tag) for tag in tags]
    for tag in reversed(tags):
        received = torch.zeros(2)
        dist.recv(received, previous, group=ctx.group, tag=tag)
        assert received.tolist() == [tag, tag]
    for work in sending:
        work.wait()


@multirank(2, 3, 4)
def test_any_source_tells_the_true_source(ctx):
    if ctx.rank == 0:
        seen = set()
        for _ in range(3 * (ctx.size - 1)):
            received = torch.zeros(5)
            source = dist.recv(received, group=ctx.group)
            assert received.tolist() == [float(source)] * 5
            seen.add(source)
        assert seen == set(range(1, ctx.size))
    else:
        for _ in range(3):
            dist.send(torch.full((5,), float(ctx.rank)), 0, group=ctx.group)


@multirank(2, 4)
def test_any_source_by_the_work(ctx):
    if ctx.rank == 0:
        sources = []
        for _ in range(ctx.size - 1):
            received = torch.zeros(1)
            work = dist.irecv(received, group=ctx.group)
            work.wait()
            assert work._source_rank() == received.item()
            sources.append(work._source_rank())
        assert sorted(sources) == list(range(1, ctx.size))
    else:
        dist.send(torch.full((1,), float(ctx.rank)), 0, group=ctx.group)


@multirank(3, 4)
def test_any_source_in_a_subgroup_gives_the_global_rank(ctx):
    ranks = [1, 2]
    group = ctx.new_group(ranks)
    if ctx.rank == 1:
        received = torch.zeros(1)
        assert dist.recv(received, group=group) == 2
    elif ctx.rank == 2:
        dist.send(torch.zeros(1), group=group, group_dst=0)


@multirank(2, 4)
def test_any_source_with_a_tag(ctx):
    if ctx.rank == 0:
        for tag in (2, 1):
            received = torch.zeros(1)
            assert dist.recv(received, group=ctx.group, tag=tag) == 1
            assert received.item() == tag
    elif ctx.rank == 1:
        works = [dist.isend(torch.full((1,), float(tag)), 0, group=ctx.group, tag=tag) for tag in (1, 2)]
        for work in works:
            work.wait()


@multirank(1, 2, 4, gloo=False)
def test_to_oneself(ctx):
    for count in (1, 300_000):
        received = torch.zeros(count)
        works = [
            dist.irecv(received, ctx.rank, group=ctx.group),
            dist.isend(message(count, ctx.rank), ctx.rank, group=ctx.group),
        ]
        for work in works:
            work.wait()
        assert_same_bits(received, message(count, ctx.rank))


@multirank(2, 4)
def test_batch(ctx):
    following, previous = around(ctx)
    received = [torch.zeros(1000), torch.zeros(3)]
    operations = [
        dist.P2POp(dist.irecv, received[0], previous, ctx.group),
        dist.P2POp(dist.isend, message(1000, ctx.rank, 0), following, ctx.group),
        dist.P2POp(dist.irecv, received[1], previous, ctx.group),
        dist.P2POp(dist.isend, message(3, ctx.rank, 1), following, ctx.group),
    ]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    assert_same_bits(received[0], message(1000, previous, 0))
    assert_same_bits(received[1], message(3, previous, 1))


@multirank(2, 4)
def test_beside_collectives(ctx):
    """A receive that waits does not hold up a collective, and no tag can meet one."""
    following, previous = around(ctx)
    received = torch.zeros(10)
    waiting = dist.irecv(received, previous, group=ctx.group, tag=1)
    for tag in range(3):
        tensor = torch.full((1000,), float(tag))
        dist.all_reduce(tensor, group=ctx.group)
        assert tensor[0] == tag * ctx.size
    dist.send(torch.full((10,), float(ctx.rank)), following, group=ctx.group, tag=1)
    waiting.wait()
    assert received[0] == previous


@multirank(2, 4)
def test_groups_do_not_share_messages(ctx):
    following, previous = around(ctx)
    other = ctx.new_group()
    received = [torch.zeros(1), torch.zeros(1)]
    works = [
        dist.isend(torch.ones(1), following, group=other),
        dist.isend(torch.zeros(1), following, group=ctx.group),
        dist.irecv(received[0], previous, group=ctx.group),
        dist.irecv(received[1], previous, group=other),
    ]
    for work in works:
        work.wait()
    assert [tensor.item() for tensor in received] == [0, 1]


@multirank(2, gloo=False)
def test_a_message_longer_than_the_tensor_is_an_error(ctx):
    if ctx.rank == 0:
        work = dist.isend(torch.ones(8), 1, group=ctx.group)
        ctx.exchange()
        # It has left, or failed; either is right, but it must not hang.
        with contextlib.suppress(dist.DistBackendError):
            work.wait()
    else:
        received = torch.zeros(4)
        with pytest.raises((dist.DistBackendError, ValueError)):
            dist.recv(received, 0, group=ctx.group)
        ctx.exchange()


@multirank(2, 4)
def test_object_lists(ctx):
    if ctx.rank == 0:
        dist.send_object_list(["text", {"a": 1}, None], 1, group=ctx.group)
    elif ctx.rank == 1:
        objects = [None] * 3
        assert dist.recv_object_list(objects, 0, group=ctx.group) == 0
        assert objects == ["text", {"a": 1}, None]
