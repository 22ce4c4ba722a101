"""Several groups: subgroups, overlapping ones, members only, DeviceMesh, object collectives, names."""

from pathlib import Path

import torch
import torch.distributed as dist
from multirank import multirank
from torch.distributed.device_mesh import init_device_mesh

NON_MEMBER = dist.GroupMember.NON_GROUP_MEMBER


def total(group, value):
    tensor = torch.tensor([float(value)])
    dist.all_reduce(tensor, group=group)
    return tensor.item()


@multirank(2, 3, 4)
def test_every_pair(ctx):
    """Overlapping groups, all alive at once."""
    pairs = [(a, b) for a in range(ctx.size) for b in range(a + 1, ctx.size)]
    groups = {pair: ctx.new_group(list(pair)) for pair in pairs}
    for pair, group in groups.items():
        if ctx.rank in pair:
            assert dist.get_world_size(group) == 2
            assert total(group, ctx.rank) == sum(pair)
        else:
            assert group == NON_MEMBER


def memory_of_all_ranks(ctx):
    """KiB; what several ranks share counts once."""
    (line,) = [line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")]
    return total(ctx.group, int(line.split()[1]))


@multirank(4, limit=120.0, gloo=False)
def test_64_groups_take_less_than_a_gibibyte(ctx):
    tensors = [torch.ones(count) for count in (1, 1 << 10, 1 << 20)]
    outputs = [torch.empty(count * ctx.size) for count in (1, 1 << 10, 1 << 20)]
    before = memory_of_all_ranks(ctx)
    groups = [ctx.new_group() for _ in range(64)]
    for group in groups:
        for tensor, output in zip(tensors, outputs, strict=True):
            dist.all_reduce(tensor.fill_(1), group=group)
            assert tensor[-1] == ctx.size
            dist.all_gather_into_tensor(output, tensor, group=group)
            assert output[-1] == ctx.size
        peer = ctx.rank ^ 1
        works = [
            dist.isend(tensors[1], peer, group=group),
            dist.irecv(outputs[1][: tensors[1].numel()], peer, group=group),
        ]
        for work in works:
            work.wait()
    assert memory_of_all_ranks(ctx) - before < 1 << 20


@multirank(1, 2, 4)
def test_group_of_one(ctx):
    for rank in range(ctx.size):
        group = ctx.new_group([rank])
        if ctx.rank == rank:
            assert total(group, 5) == 5
            dist.barrier(group)


@multirank(3, 4)
def test_ranks_in_another_order(ctx):
    order = [2, 0, 1]
    group = ctx.new_group(order, sort_ranks=False)
    if ctx.rank in order:
        assert dist.get_rank(group) == order.index(ctx.rank)
        outputs = [torch.zeros(1) for _ in order]
        dist.all_gather(outputs, torch.tensor([float(ctx.rank)]), group=group)
        assert [output.item() for output in outputs] == order
        tensor = torch.tensor([float(ctx.rank)])
        dist.broadcast(tensor, group=group, group_src=0)
        assert tensor.item() == 2


@multirank(2, 4, gloo=False)
def test_created_by_members_only(ctx):
    """The others do not take part at all, and may be busy with something else."""
    members = list(range(1, ctx.size))
    if ctx.rank == 0:
        ctx.store.wait(["done"])
    else:
        group = ctx.new_group(members, use_local_synchronization=True)
        assert total(group, ctx.rank) == sum(members)
        if ctx.store.add("members", 1) == len(members):
            ctx.store.set("done", "1")


@multirank(4)
def test_disjoint_groups_created_by_members_only(ctx):
    members = [0, 1] if ctx.rank < 2 else [2, 3]
    group = ctx.new_group(members, use_local_synchronization=True)
    assert total(group, ctx.rank) == sum(members)


@multirank(2, 4)
def test_new_subgroups_by_enumeration(ctx):
    lists = [[0], list(range(1, ctx.size))]
    mine, groups = dist.new_subgroups_by_enumeration(lists)
    assert len(groups) == 2
    expected = lists[0] if ctx.rank == 0 else lists[1]
    assert dist.get_process_group_ranks(mine) == expected
    assert total(mine, ctx.rank) == sum(expected)
    dist.destroy_process_group(mine)


@multirank(2, 4)
def test_new_subgroups(ctx):
    mine, _ = dist.new_subgroups(2)
    first = ctx.rank // 2 * 2
    assert total(mine, ctx.rank) == 2 * first + 1
    dist.destroy_process_group(mine)


@multirank(2, 4)
def test_device_mesh(ctx):
    mesh = init_device_mesh("cpu", (2, ctx.size // 2), mesh_dim_names=("rows", "columns"))
    rows, columns = mesh.get_group("rows"), mesh.get_group("columns")
    width = ctx.size // 2
    assert total(rows, ctx.rank) == sum(range(ctx.rank % width, ctx.size, width))
    first = ctx.rank // width * width
    assert total(columns, ctx.rank) == sum(range(first, first + width))


@multirank(2)
def test_functional_collectives_on_a_mesh(ctx):
    import torch.distributed._functional_collectives as functional

    mesh = init_device_mesh("cpu", (ctx.size,))
    result = functional.all_reduce(torch.ones(3), "sum", mesh)
    assert torch.equal(result + 0, torch.full((3,), float(ctx.size)))
    gathered = functional.all_gather_tensor(torch.full((2,), float(ctx.rank)), 0, mesh)
    assert torch.equal(gathered + 0, torch.arange(ctx.size).float().repeat_interleave(2))


@multirank(2, 4)
def test_distributed_tensor(ctx):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (ctx.size,))
    whole = torch.arange(30.0).reshape(10, 3)
    sharded = distribute_tensor(whole, mesh, [Shard(0)])
    assert torch.equal(sharded.full_tensor(), whole)
    assert torch.equal(sharded.redistribute(mesh, [Shard(1)]).full_tensor(), whole)
    assert torch.equal(sharded.sum().redistribute(mesh, [Replicate()]).to_local(), whole.sum())


@multirank(1, 2, 4)
def test_object_collectives(ctx):
    mine = {"rank": ctx.rank, "text": "x" * (ctx.rank * 1000)}
    everybody = [None] * ctx.size
    dist.all_gather_object(everybody, mine, group=ctx.group)
    assert [thing["rank"] for thing in everybody] == list(range(ctx.size))
    assert everybody[ctx.rank] == mine

    objects = [mine, ctx.rank] if ctx.rank == 0 else [None, None]
    dist.broadcast_object_list(objects, 0, group=ctx.group)
    assert objects == [{"rank": 0, "text": ""}, 0]

    gathered = [None] * ctx.size if ctx.rank == 0 else None
    dist.gather_object(mine, gathered, 0, group=ctx.group)
    if ctx.rank == 0:
        assert [thing["rank"] for thing in gathered] == list(range(ctx.size))

    output = [None]
    dist.scatter_object_list(
        output, [f"to {rank}" for rank in range(ctx.size)] if ctx.rank == 0 else None, 0, ctx.group
    )
    assert output == [f"to {ctx.rank}"]


@multirank(2, 4)
def test_name_and_description(ctx):
    group = ctx.new_group(group_desc="my experts")
    assert group.group_desc == "my experts"
    assert ctx.same(group.group_name) != ctx.group.group_name
    assert dist.get_backend(group) == ctx.backend
    backend = group._get_backend(torch.device("cpu"))
    assert (backend.rank(), backend.size()) == (ctx.rank, ctx.size)
    assert backend.name() == ctx.backend


@multirank(2, 4)
def test_groups_work_side_by_side(ctx):
    """An op that cannot end yet in one group does not hold up another group."""
    other = ctx.new_group()
    held = torch.ones(1)
    if ctx.rank != 0:
        work = dist.all_reduce(held, group=ctx.group, async_op=True)
    assert total(other, 1) == ctx.size
    if ctx.rank == 0:
        work = dist.all_reduce(held, group=ctx.group, async_op=True)
    work.wait()
    assert held.item() == ctx.size


@multirank(2, 4)
def test_groups_in_another_order_on_each_rank(ctx):
    """Async ops of different groups may be issued in any order."""
    groups = [ctx.new_group() for _ in range(4)]
    tensors = [torch.full((10_000,), float(index)) for index in range(4)]
    order = list(range(4))[:: 1 if ctx.rank % 2 else -1]
    works = [dist.all_reduce(tensors[index], group=groups[index], async_op=True) for index in order]
    for work in works:
        work.wait()
    for index, tensor in enumerate(tensors):
        assert torch.equal(tensor, torch.full((10_000,), float(index * ctx.size)))


@multirank(2, 4)
def test_destroyed_and_created_again(ctx):
    for turn in range(10):
        group = ctx.new_group()
        assert total(group, turn) == turn * ctx.size
        dist.destroy_process_group(group)


@multirank(2, 4, gloo=False)
def test_used_after_destruction(ctx):
    group = ctx.new_group()
    dist.destroy_process_group(group)
    error = ctx.error_of(dist.all_reduce, torch.ones(1), group=group)
    assert isinstance(error, (ValueError, RuntimeError))
