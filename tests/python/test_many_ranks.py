"""16 ranks, far more than most machines that run tests have cores: every operation is right, and so are subgroups."""

import torch
import torch.distributed as dist
from multirank import multirank
from references import OPS, any_bits, assert_reduced, assert_same_bits, bits, values
from scripts import run_well

RANKS = 16
# One element; one slot; several slots, and not a whole number of them.
COUNTS = (1, 1000, 70_001)
REDUCTIONS = {
    torch.float32: ("SUM", "MAX", "AVG", "PREMUL_SUM"),
    torch.bfloat16: ("SUM", "MIN", "AVG"),
    torch.int64: ("SUM", "PRODUCT", "BXOR", "AVG"),
    torch.bool: ("BAND", "BOR"),
}
# One that reduces, one that only moves, one of an odd element.
MOVED = (torch.float32, torch.float8_e4m3fn, torch.bool)


def count_for(op, dtype, count):
    # The reference averages integers one by one.
    return min(count, 500) if op == "AVG" and dtype == torch.int64 else count


def combinations():
    return [
        (dtype, op, count_for(op, dtype, count)) for dtype, ops in REDUCTIONS.items() for op in ops for count in COUNTS
    ]


def empty(dtype, count):
    return torch.zeros(count, dtype=torch.uint8).to(dtype)


@multirank(RANKS, limit=240.0, gloo=False)
def test_reductions(ctx):
    for dtype, op, count in combinations():
        inputs = [values(dtype, count, 51, rank) for rank in range(ctx.size)]
        tensor = inputs[ctx.rank].clone()
        dist.all_reduce(tensor, OPS[op], group=ctx.group)
        assert_reduced(tensor, inputs, op)
        root = count % ctx.size
        tensor = inputs[ctx.rank].clone()
        dist.reduce(tensor, root, OPS[op], group=ctx.group)
        if ctx.rank == root:
            assert_reduced(tensor, inputs, op)


@multirank(RANKS, limit=240.0, gloo=False)
def test_reduce_scatter(ctx):
    for dtype, op, whole in combinations():
        count = min(whole, 5_001)
        inputs = [values(dtype, count, 52, source, ctx.rank) for source in range(ctx.size)]
        blocks = [values(dtype, count, 52, ctx.rank, target) for target in range(ctx.size)]
        output = empty(dtype, count)
        dist.reduce_scatter(output, blocks, OPS[op], group=ctx.group)
        assert_reduced(output, inputs, op)
        output = empty(dtype, count)
        dist.reduce_scatter_tensor(output, torch.cat(blocks), OPS[op], group=ctx.group)
        assert_reduced(output, inputs, op)


@multirank(RANKS, limit=240.0, gloo=False)
def test_to_and_from_a_root(ctx):
    for dtype in MOVED:
        for count in COUNTS:
            root = (count + 3) % ctx.size
            everybody = [any_bits(dtype, count, 53, rank) for rank in range(ctx.size)]
            tensor = everybody[ctx.rank].clone()
            dist.broadcast(tensor, root, group=ctx.group)
            assert_same_bits(tensor, everybody[root])
            outputs = [empty(dtype, count) for _ in everybody] if ctx.rank == root else None
            dist.gather(everybody[ctx.rank], outputs, root, group=ctx.group)
            for output, expected in zip(outputs or [], everybody, strict=False):
                assert_same_bits(output, expected)
            output = empty(dtype, count)
            dist.scatter(output, everybody if ctx.rank == root else None, root, group=ctx.group)
            assert_same_bits(output, everybody[ctx.rank])


@multirank(RANKS, limit=240.0, gloo=False)
def test_everybody_to_everybody(ctx):
    for dtype in MOVED:
        for count in COUNTS:
            everybody = [any_bits(dtype, count, 54, rank) for rank in range(ctx.size)]
            outputs = [empty(dtype, count) for _ in everybody]
            dist.all_gather(outputs, everybody[ctx.rank], group=ctx.group)
            for output, expected in zip(outputs, everybody, strict=True):
                assert_same_bits(output, expected)
            output = empty(dtype, count * ctx.size)
            dist.all_gather_into_tensor(output, everybody[ctx.rank], group=ctx.group)
            assert torch.equal(bits(output), torch.cat([bits(expected) for expected in everybody]))


@multirank(RANKS, limit=240.0, gloo=False)
def test_all_to_all(ctx):
    for length in (lambda source, target: 5, lambda source, target: (source * 700 + target * 3) % 2001):
        sends = [any_bits(torch.float32, length(ctx.rank, to), 55, ctx.rank, to) for to in range(ctx.size)]
        expected = [
            any_bits(torch.float32, length(source, ctx.rank), 55, source, ctx.rank) for source in range(ctx.size)
        ]
        outputs = [torch.zeros(len(part)) for part in expected]
        dist.all_to_all(outputs, sends, group=ctx.group)
        for output, part in zip(outputs, expected, strict=True):
            assert_same_bits(output, part)
        output = torch.zeros(sum(map(len, expected)))
        dist.all_to_all_single(
            output, torch.cat(sends), list(map(len, expected)), list(map(len, sends)), group=ctx.group
        )
        assert_same_bits(output, torch.cat(expected))


@multirank(RANKS, limit=240.0, gloo=False)
def test_barriers(ctx):
    for turn in range(5):
        ctx.store.add(f"arrived/{turn}", 1)
        dist.barrier(ctx.group)
        assert ctx.store.add(f"arrived/{turn}", 0) == ctx.size


@multirank(RANKS, limit=240.0, gloo=False)
def test_messages(ctx):
    following, previous = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    for count in (1, 200_003):
        mine, expected = (any_bits(torch.int32, count, 56, rank) for rank in (ctx.rank, previous))
        # Around the ring, and as a batch.
        received = torch.zeros(count, dtype=torch.int32)
        sending = dist.isend(mine, following, group=ctx.group)
        dist.recv(received, previous, group=ctx.group)
        sending.wait()
        assert_same_bits(received, expected)
        received.zero_()
        batch = [
            dist.P2POp(dist.irecv, received, previous, ctx.group),
            dist.P2POp(dist.isend, mine, following, ctx.group),
        ]
        for work in dist.batch_isend_irecv(batch):
            work.wait()
        assert_same_bits(received, expected)
    # From any source.
    if ctx.rank == 3:
        sources = set()
        for _ in range(ctx.size - 1):
            received = torch.zeros(1, dtype=torch.int64)
            source = dist.recv(received, group=ctx.group)
            assert received.item() == source
            sources.add(source)
        assert sources == set(range(ctx.size)) - {3}
    else:
        dist.send(torch.tensor([ctx.rank]), 3, group=ctx.group)


@multirank(RANKS, limit=240.0, gloo=False)
def test_coalesced_and_sparse(ctx):
    counts = (1, 777, 20_000)
    tensors = [values(torch.float32, count, 57, ctx.rank) for count in counts]
    ctx.group.allreduce_coalesced(tensors).wait()
    for tensor, count in zip(tensors, counts, strict=True):
        assert_reduced(tensor, [values(torch.float32, count, 57, rank) for rank in range(ctx.size)], "SUM")
    indices, ones = torch.tensor([[ctx.rank, ctx.size]]), torch.ones(2)
    sparse = torch.sparse_coo_tensor(indices, ones, (ctx.size + 1,))
    dist.all_reduce(sparse, group=ctx.group)
    assert sparse.to_dense().tolist() == [1.0] * ctx.size + [float(ctx.size)]


@multirank(RANKS, limit=240.0, gloo=False)
def test_subgroups(ctx):
    """Every rank is in three groups that overlap, and works in all of them at once."""
    blocks = [list(range(first, first + 4)) for first in range(0, ctx.size, 4)]
    stripes = [list(range(first, ctx.size, 4)) for first in range(4)]
    halves = [list(range(8)), list(range(8, ctx.size))]
    mine = []
    for ranks in [*blocks, *stripes, *halves]:
        group = ctx.new_group(ranks)
        if ctx.rank in ranks:
            mine.append((ranks, group))
    assert len(mine) == 3
    for count in (1, 30_000):
        tensors = [values(torch.float32, count, 58, ctx.rank, index) for index in range(3)]
        works = [
            dist.all_reduce(tensor, group=group, async_op=True)
            for tensor, (_, group) in zip(tensors, mine, strict=True)
        ]
        gathered = [torch.zeros(1, dtype=torch.int64) for _ in range(4)]
        dist.all_gather(gathered, torch.tensor([ctx.rank]), group=mine[1][1])
        assert [int(tensor) for tensor in gathered] == mine[1][0]
        for work in works:
            work.wait()
        for index, (ranks, _) in enumerate(mine):
            assert_reduced(tensors[index], [values(torch.float32, count, 58, rank, index) for rank in ranks], "SUM")


def test_ranks_spread_over_the_cores_and_are_not_bound(tmp_path):
    """Four ranks that may use two cores."""
    ended = run_well(
        tmp_path,
        """
        import ctypes
        import os
        import torch
        import torch.distributed as dist

        allowed = set(sorted(os.sched_getaffinity(0))[:2])
        os.sched_setaffinity(0, allowed)
        dist.init_process_group("rmpi", init_method="mpi://")
        core = ctypes.CDLL(None).sched_getcpu
        place = sorted(allowed)[dist.get_rank() % len(allowed)]
        there, tries = torch.zeros(1), 0
        # Another job on these cores moves ranks, too: all of them have to be there at the same time, once.
        while not there and tries < 8:
            tensor, seen = torch.zeros(1), []
            for _ in range(3000):
                dist.all_reduce(tensor)
                seen.append(core())
            there.fill_(2 * seen.count(place) > len(seen))
            dist.all_reduce(there, dist.ReduceOp.MIN)
            tries += 1
        print("THERE", bool(there))
        print("ALLOWED", os.sched_getaffinity(0) == allowed)
        dist.destroy_process_group()
        """,
        ranks=4,
    )
    assert ended.printed("THERE") == ended.printed("ALLOWED") == ["True"] * 4, ended.output
