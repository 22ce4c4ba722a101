"""Functional collectives, eager and compiled: results and gradients are those of one process; inputs stay."""

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from gradients import check
from multirank import multirank
from references import assert_reduced, values
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from versions import VERSION, since

SHAPE = (8, 4)


def rows(sender, receiver):
    """How many rows go from one rank to another."""
    return 1 + (sender + 2 * receiver) % 3


def columns(leaves):
    """The first input of all ranks, the second one, and so on."""
    return list(zip(*leaves, strict=True))


def total(parts):
    return torch.stack(parts).sum(0)


# Of each case: the outputs of this rank from its inputs; those of all ranks from the inputs of all.


# Those that have gradients.
OPS = {"sum": torch.sum, "max": torch.amax, "min": torch.amin} if VERSION >= (2, 15) else {"sum": torch.sum}


def all_reduce(inputs, group):
    return [funcol.all_reduce(each, op, group) for each, op in zip(inputs, OPS, strict=True)]


def all_reduce_expected(leaves):
    given = zip(OPS.values(), columns(leaves), strict=True)
    return [[reduce(torch.stack(parts), 0) for reduce, parts in given]] * len(leaves)


def all_reduce_average(inputs, group):
    return [funcol.all_reduce(inputs[0], "avg", group)]


def all_reduce_average_expected(leaves):
    return [[torch.stack(columns(leaves)[0]).mean(0)]] * len(leaves)


def all_reduce_coalesced(inputs, group):
    return funcol.all_reduce_coalesced(inputs, "sum", group)


def all_reduce_coalesced_expected(leaves):
    return [[total(parts) for parts in columns(leaves)]] * len(leaves)


def all_gather(inputs, group):
    return [funcol.all_gather_single(each, dim, group) for dim, each in enumerate(inputs)]


def all_gather_expected(leaves):
    return [[torch.cat(parts, dim) for dim, parts in enumerate(columns(leaves))]] * len(leaves)


def all_gather_coalesced(inputs, group):
    return funcol.all_gather_single_coalesced(inputs, group)


def all_gather_coalesced_expected(leaves):
    return [[torch.cat(parts) for parts in columns(leaves)]] * len(leaves)


def reduce_scatter(inputs, group):
    return [funcol.reduce_scatter_single(each, "sum", dim, group) for dim, each in enumerate(inputs)]


def reduce_scatter_coalesced(inputs, group):
    return funcol.reduce_scatter_single_coalesced(list(inputs), "sum", [0, 1], group)


def reduce_scatter_expected(leaves):
    return columns(total(parts).chunk(len(leaves), dim) for dim, parts in enumerate(columns(leaves)))


def all_to_all(inputs, group):
    return [funcol.all_to_all_single(inputs[0], None, None, group)]


def all_to_all_expected(leaves):
    return [[torch.cat(parts)] for parts in columns(leaf.chunk(len(leaves)) for (leaf,) in leaves)]


def all_to_all_uneven(inputs, group):
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    sends = [rows(rank, peer) for peer in range(size)]
    receives = [rows(peer, rank) for peer in range(size)]
    return [funcol.all_to_all_single_autograd(inputs[0][: sum(sends)], receives, sends, group)]


def all_to_all_uneven_expected(leaves):
    size = len(leaves)
    parts = []
    for sender, (leaf,) in enumerate(leaves):
        sends = [rows(sender, receiver) for receiver in range(size)]
        parts.append(leaf[: sum(sends)].split(sends))
    return [[torch.cat(received)] for received in columns(parts)]


def permute(inputs, group):
    """Each rank sends to the next one."""
    size = dist.get_world_size(group)
    return [funcol.permute_tensor(inputs[0], [(rank + 1) % size for rank in range(size)], group)]


def permute_expected(leaves):
    return [leaves[rank - 1] for rank in range(len(leaves))]


CASES = [
    (all_reduce, all_reduce_expected, [SHAPE] * len(OPS)),
    (all_reduce_coalesced, all_reduce_coalesced_expected, [SHAPE, (3,), (5, 1)]),
    (all_gather, all_gather_expected, [SHAPE] * 2),
    (all_gather_coalesced, all_gather_coalesced_expected, [SHAPE, (3,), (5, 1)]),
    (reduce_scatter, reduce_scatter_expected, [SHAPE] * 2),
    (reduce_scatter_coalesced, reduce_scatter_expected, [SHAPE] * 2),
    (all_to_all, all_to_all_expected, [SHAPE]),
    (all_to_all_uneven, all_to_all_uneven_expected, [(12, 2)]),
    (permute, permute_expected, [(5,)]),
]


def cases_of(ctx):
    # Gloo has no AVG; torch 2.13 has no gradient of it.
    has_average = ctx.backend != "gloo" and VERSION >= (2, 14)
    return CASES + [(all_reduce_average, all_reduce_average_expected, [SHAPE])] * has_average


@multirank(2, 4)
def test_eager(ctx):
    for operation, expected, shapes in cases_of(ctx):
        check(ctx, lambda inputs, operation=operation: operation(inputs, ctx.group), expected, shapes)


@multirank(2)
def test_compiled(ctx):
    """All cases in one graph, with computation before and after each collective."""
    cases = cases_of(ctx)

    def by_case(inputs):
        start = 0
        for _, _, shapes in cases:
            yield inputs[start : start + len(shapes)]
            start += len(shapes)

    def operation(inputs):
        given = by_case([each * 2 for each in inputs])
        results = [case[0](part, ctx.group) for case, part in zip(cases, given, strict=True)]
        return [output.sin() for outputs in results for output in outputs]

    def reference(leaves):
        given = columns(by_case([leaf * 2 for leaf in mine]) for mine in leaves)
        results = [case[1](part) for case, part in zip(cases, given, strict=True)]
        return [[output.sin() for outputs in of_rank for output in outputs] for of_rank in columns(results)]

    compiled = torch.compile(operation, backend="aot_eager", fullgraph=True)
    check(ctx, compiled, reference, [shape for _, _, shapes in cases for shape in shapes])


@multirank(2)
def test_compiled_by_inductor(ctx):
    """Inductor issues forms of its own, in place and into given outputs. Nothing here makes it call a C++ compiler."""

    def operation(mine):
        return [
            funcol.all_reduce(mine, "sum", ctx.group),
            *funcol.all_reduce_coalesced([mine, mine], "max", ctx.group),
            funcol.all_gather_single(mine, 0, ctx.group),
            funcol.reduce_scatter_single(mine, "sum", 0, ctx.group),
            funcol.all_to_all_single(mine, None, None, ctx.group),
            funcol.broadcast(mine, 1, ctx.group),
        ]

    given = [torch.arange(8.0) * (10 if rank else -1) for rank in range(ctx.size)]
    largest = torch.stack(given).amax(0)
    expected = [
        total(given),
        largest,
        largest,
        torch.cat(given),
        total(given).chunk(ctx.size)[ctx.rank],
        torch.cat([tensor.chunk(ctx.size)[ctx.rank] for tensor in given]),
        given[1],
    ]
    compiled = torch.compile(operation, backend="inductor", fullgraph=True)
    for actual, wanted in zip(compiled(given[ctx.rank].clone()), expected, strict=True):
        assert torch.equal(actual, wanted)


@multirank(2, 4)
def test_broadcast(ctx):
    """From any root; it has no gradient."""
    for root in range(ctx.size):
        mine = torch.full((3,), float(ctx.rank))
        assert torch.equal(funcol.broadcast(mine, root, ctx.group), torch.full((3,), float(root)))
        assert torch.equal(mine, torch.full((3,), float(ctx.rank)))


@multirank(2, 4)
def test_reductions_of_integers(ctx):
    given = [values(torch.int32, ctx.size * 6, 3, rank) for rank in range(ctx.size)]
    names = {"PRODUCT": "product", "MIN": "min", "MAX": "max", "BAND": "band", "BOR": "bor", "BXOR": "bxor"}
    for op, name in names.items():
        assert_reduced(funcol.all_reduce(given[ctx.rank], name, ctx.group).wait(), given, op)
        if ctx.backend != "gloo":
            block = [tensor.chunk(ctx.size)[ctx.rank] for tensor in given]
            assert_reduced(funcol.reduce_scatter_single(given[ctx.rank], name, 0, ctx.group).wait(), block, op)


@multirank(4)
def test_ways_to_name_a_group(ctx):
    """By ranks, by a mesh, and by a dimension of a mesh, as well as by itself and its name."""
    mine = torch.tensor([10.0**ctx.rank])
    mesh = init_device_mesh("cpu", (2, 2))
    everybody = [ctx.group, ctx.group.group_name, DeviceMesh.from_group(ctx.group, "cpu"), [0, 1, 2, 3]]
    for group in everybody:
        assert funcol.all_reduce(mine, "sum", group).item() == 1111
    column, row = funcol.all_reduce(mine, "sum", (mesh, 0)), funcol.all_reduce(mine, "sum", (mesh, 1))
    assert column.item() == (101 if ctx.rank % 2 == 0 else 1010)
    assert row.item() == (11 if ctx.rank < 2 else 1100)


def in_place(mine, ctx):
    """The collectives of torch.distributed that the compiler turns into functional ones."""
    size, group = ctx.size, ctx.group
    count = mine.numel()
    summed = mine.clone()
    dist.all_reduce(summed, group=group)
    gathered = torch.empty(size * count)
    dist.all_gather_into_tensor(gathered, mine, group=group)
    listed = [torch.empty(count) for _ in range(size)]
    dist.all_gather(listed, mine, group=group)
    scattered = torch.empty(count // size)
    dist.reduce_scatter_tensor(scattered, mine, group=group)
    from_list = torch.empty(count // size)
    dist.reduce_scatter(from_list, list(mine.chunk(size)), group=group)
    exchanged = torch.empty(count)
    dist.all_to_all_single(exchanged, mine, group=group)
    return summed, gathered, torch.cat(listed), scattered, from_list, exchanged


@since((2, 14), "graphs of plain collectives")
@multirank(2)
def test_compiled_collectives_in_place(ctx):
    compiled = torch.compile(lambda mine: in_place(mine, ctx), backend="aot_eager", fullgraph=True)
    given = [torch.arange(8.0) + 100 * rank for rank in range(ctx.size)]
    sums = total(given)
    block = sums.chunk(ctx.size)[ctx.rank]
    exchanged = torch.cat([tensor.chunk(ctx.size)[ctx.rank] for tensor in given])
    expected = (sums, torch.cat(given), torch.cat(given), block, block, exchanged)
    for run in (compiled, lambda mine: in_place(mine, ctx)):
        for actual, wanted in zip(run(given[ctx.rank]), expected, strict=True):
            assert torch.equal(actual, wanted)


@multirank(2)
def test_compiled_messages(ctx):
    """A batch of messages and single ones, in a graph."""
    peer = 1 - ctx.rank

    def operation(mine):
        batched, single = torch.empty_like(mine), torch.empty_like(mine)
        for work in dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, mine * 2, group=ctx.group, group_peer=peer),
                dist.P2POp(dist.irecv, batched, group=ctx.group, group_peer=peer),
            ]
        ):
            work.wait()
        if ctx.rank == 0:
            dist.isend(mine * 3, peer, group=ctx.group).wait()
            dist.irecv(single, peer, group=ctx.group).wait()
        else:
            dist.irecv(single, peer, group=ctx.group).wait()
            dist.isend(mine * 3, peer, group=ctx.group).wait()
        return batched + 1, single + 1

    with torch._dynamo.config.patch(enable_p2p_compilation=True):
        compiled = torch.compile(operation, backend="aot_eager", fullgraph=True)
        batched, single = compiled(torch.full((5,), 10.0 + ctx.rank))
    assert torch.equal(batched, torch.full((5,), 2 * (10.0 + peer) + 1))
    assert torch.equal(single, torch.full((5,), 3 * (10.0 + peer) + 1))
