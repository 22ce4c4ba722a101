"""Groups made of a group's members, and a group that changes its members, through torch's Python API."""

import threading
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from multirank import multirank
from scripts import run_well
from torch._C import _distributed_c10d as c10d
from versions import since

CPU = torch.device("cpu")
TIMEOUT = timedelta(seconds=40)


def total(group, value=1.0):
    tensor = torch.tensor([float(value)])
    dist.all_reduce(tensor, group=group)
    return tensor.item()


@since((2, 15), "split_group of a group that is bound to no device")
@multirank(2, 4, gloo=False)
def test_split_group(ctx):
    half = ctx.size // 2
    parts = [list(range(half))[::-1], list(range(half, ctx.size))]
    part = dist.split_group(ctx.group, parts, timeout=TIMEOUT, group_desc="half")
    ranks = next(ranks for ranks in parts if ctx.rank in ranks)
    # Ranks keep the order in which they are given.
    assert dist.get_process_group_ranks(part) == ranks
    assert dist.get_rank(part) == ranks.index(ctx.rank)
    assert total(part, ctx.rank) == sum(ranks)
    assert total(ctx.group) == ctx.size
    options = part._get_backend(CPU).options
    assert options._timeout == TIMEOUT
    assert options.group_name == part.group_name != ctx.group.group_name
    dist.destroy_process_group(part)


@since((2, 15), "split_group of a group that is bound to no device")
@multirank(2, 4, gloo=False)
def test_split_group_leaves_ranks_out(ctx):
    part = dist.split_group(ctx.group, [[0]], timeout=TIMEOUT)
    if ctx.rank == 0:
        assert total(part, 5) == 5
        dist.destroy_process_group(part)
    else:
        assert part is dist.GroupMember.NON_GROUP_MEMBER
    assert total(ctx.group) == ctx.size


@since((2, 15), "split_group of a group that is bound to no device")
@multirank(2, 4, gloo=False)
def test_split_of_a_split(ctx):
    everybody = dist.split_group(ctx.group, [list(range(ctx.size))], timeout=TIMEOUT)
    pairs = [[rank, rank + 1] for rank in range(0, ctx.size, 2)]
    pair = dist.split_group(everybody, pairs, timeout=TIMEOUT)
    assert total(pair) == 2
    dist.destroy_process_group(pair)
    assert total(everybody) == ctx.size
    dist.destroy_process_group(everybody)


@since((2, 14), "options of a backend")
@multirank(2, 4, gloo=False)
def test_merge_remote_group(ctx):
    """Two groups become one."""
    half = ctx.new_group(list(range(ctx.size // 2)))
    other = ctx.new_group(list(range(ctx.size // 2, ctx.size)))
    mine = half if ctx.rank < ctx.size // 2 else other
    backend = mine._get_backend(CPU)
    options = backend.options
    merged = backend.merge(dist.PrefixStore("merged", ctx.store), options, ctx.rank, ctx.size)
    assert (merged.rank(), merged.size()) == (ctx.rank, ctx.size)
    tensor = torch.ones(1)
    merged.allreduce([tensor]).wait()
    assert tensor.item() == ctx.size
    assert total(mine) == ctx.size // 2
    merged.shutdown()


@since((2, 14), "options of a backend")
@multirank(2, 4, gloo=False)
def test_a_new_group_leaves_the_store_as_it_was(ctx):
    """But for how often each rank has come."""
    from torch_rmpi import _C

    backend = ctx.group._get_backend(CPU)
    store = dist.PrefixStore("again", ctx.store)
    keys = []
    for _ in range(3):
        # As before a group that torch makes: who has come to two meetings, leaves neither.
        _C.meet(store, ctx.rank, ctx.size, TIMEOUT, "again")
        again = backend.merge(store, backend.options, ctx.rank, ctx.size)
        total(ctx.group)
        keys.append(store.num_keys())
        total(ctx.group)
        again.shutdown()
    assert keys[0] == keys[1] == keys[2]


@multirank(2, 4, gloo=False)
def test_shrink_group(ctx):
    last = ctx.size - 1
    group = ctx.new_group()
    if ctx.rank != last:
        rest = dist.shrink_group([last], group)
        assert rest.size() == last
        assert rest.rank() == ctx.rank
        assert total(rest) == last
        dist.destroy_process_group(rest)
    ctx.exchange()


@multirank(2, 4, gloo=False)
def test_shrink_refuses_what_cannot_be(ctx):
    backend = ctx.group._get_backend(CPU)
    assert backend.supports_shrinking
    with pytest.raises(ValueError, match="out of range"):
        backend.shrink([ctx.size])
    with pytest.raises(ValueError, match="only the others"):
        backend.shrink([ctx.rank])
    assert total(ctx.group) == ctx.size


@since((2, 14), "groups that are reconfigured")
def test_reconfigure(tmp_path):
    """A job that starts with no members, takes them all, goes on with fewer, and takes them all again."""
    run_well(
        tmp_path,
        """
        import torch
        import torch.distributed as dist

        dist.init_process_group("rmpi", init_method="mpi://", enable_reconfigure=True)
        group = dist.group.WORLD
        store = group.get_group_store()
        mine, world = dist.get_rank(), dist.get_world_size()
        try:
            dist.all_reduce(torch.ones(1))
        except dist.DistBackendError as error:
            assert "reconfigure()" in str(error), error
        else:
            raise AssertionError("a group without members did something")
        assert dist.distributed_c10d._supports_reconfigure()
        store.set(f"handle {mine}", dist.distributed_c10d._get_reconfigure_handle())
        handles = [store.get(f"handle {rank}").decode() for rank in range(world)]

        def total():
            tensor = torch.ones(1)
            dist.all_reduce(tensor)
            return tensor.item()

        reconfigure = dist.distributed_c10d._reconfigure
        reconfigure(uuid=1, handles=set(handles)).wait()
        assert (group.rank(), group.size(), total()) == (mine, world, world)
        if mine != 0:
            reconfigure(uuid=2, handles=handles[1:]).wait()
            assert (group.rank(), group.size(), total()) == (mine - 1, world - 1, world - 1)
        reconfigure(uuid=3, handles=handles[::-1]).wait()
        assert (group.rank(), group.size(), total()) == (world - 1 - mine, world, world)
        dist.destroy_process_group()
        """,
        ranks=3,
    )


@since((2, 15), "split_group of a group that is bound to no device")
@multirank(1, 2, gloo=False)
def test_options_are_ours_and_cloned(ctx):
    options = ctx.group._get_backend(CPU).options
    from torch_rmpi import _C

    assert isinstance(options, _C.Options)
    assert isinstance(options, c10d.Backend.Options)
    chosen = _C.Options(timeout=TIMEOUT)
    chosen.chunk_bytes = 8192
    group = ctx.new_group(pg_options=chosen)
    part = dist.split_group(group, [list(range(ctx.size))], timeout=TIMEOUT)
    inherited = part._get_backend(CPU).options
    assert isinstance(inherited, _C.Options)
    assert inherited.chunk_bytes == 8192
    assert inherited.group_name != group._get_backend(CPU).options.group_name
    dist.destroy_process_group(part)


@multirank(2, 4, gloo=False)
def test_suspend_and_resume(ctx):
    group = ctx.new_group()
    backend = group._get_backend(CPU)
    before = backend.memory_stats()
    assert before["shared_bytes"] > before["own_shared_bytes"] > 0
    for _ in range(2):
        backend.suspend()
        with pytest.raises(dist.DistBackendError, match="resume"):
            dist.all_reduce(torch.ones(1), group=group)
        ctx.exchange()
        backend.resume()
        assert total(group) == ctx.size


@multirank(2, gloo=False)
def test_other_threads_run_while_a_rank_waits_for_the_others(ctx):
    """torch's own binding of resume keeps the interpreter's lock; here the others wait for a thread that needs it."""
    group = ctx.new_group()
    backend = group._get_backend(CPU)
    backend.suspend()
    if ctx.rank == 0:
        begun = threading.Event()

        def tell():
            begun.set()
            # Far more steps than this thread gets before the other one is in `resume`.
            for step in range(200_000):
                ctx.steps = step
            ctx.store.set("resume now", "yes")

        threading.Thread(target=tell).start()
        begun.wait()
    else:
        ctx.store.get("resume now")
    backend.resume()
    assert total(group) == ctx.size
