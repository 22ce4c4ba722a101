"""torch.distributed.checkpoint: what is saved by some ranks in one layout is loaded in any other, bit for bit."""

import contextlib
import itertools
import shutil
import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from multirank import multirank
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from training import RATE, STEPS, loss_of, model

PLACEMENTS = [Shard(0), Shard(1), Replicate()]


@contextlib.contextmanager
def folder(ctx):
    """A folder that all ranks share, removed when all have left it."""
    mine = tempfile.mkdtemp(prefix="rmpi-checkpoint-") if ctx.rank == 0 else None
    path = ctx.exchange(mine)[0]
    yield path
    ctx.exchange()
    if ctx.rank == 0:
        shutil.rmtree(path)


def full_tensor(seed=1):
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))


def train(network, optimizer, ctx, steps):
    for step in steps:
        optimizer.zero_grad()
        loss_of(network, step, ctx.rank).backward()
        optimizer.step()


def optimizer_of(network):
    return torch.optim.Adam(network.parameters(), RATE / 10)


@multirank(2, 4)
def test_any_layout_to_any_other(ctx):
    mesh = init_device_mesh("cpu", (ctx.size,))
    full = full_tensor()
    with folder(ctx) as path:
        saved = {str(placement): distribute_tensor(full, mesh, [placement]) for placement in PLACEMENTS}
        dcp.save(saved | {"plain": full, "step": 7}, checkpoint_id=path, process_group=ctx.group)
        for source, target in itertools.product(PLACEMENTS, PLACEMENTS):
            state = {str(source): distribute_tensor(torch.zeros(7, 5), mesh, [target]), "step": 0}
            dcp.load(state, checkpoint_id=path, process_group=ctx.group)
            assert torch.equal(state[str(source)].full_tensor(), full), (source, target)
            assert state["step"] == 7
        plain = {str(Shard(0)): torch.zeros(7, 5), "plain": torch.zeros(7, 5)}
        dcp.load(plain, checkpoint_id=path, process_group=ctx.group)
        assert all(torch.equal(tensor, full) for tensor in plain.values())


@multirank(4)
def test_other_meshes_and_numbers_of_ranks(ctx):
    """Saved by all ranks on a mesh of two dimensions; loaded by two of them, and by each one alone."""
    mesh = init_device_mesh("cpu", (2, 2))
    full = full_tensor()
    pair = ctx.new_group([0, 1])
    with folder(ctx) as path:
        saved = {"weight": distribute_tensor(full, mesh, [Shard(0), Shard(1)])}
        dcp.save(saved, checkpoint_id=path, process_group=ctx.group)
        if ctx.rank < 2:
            small = DeviceMesh.from_group(pair, "cpu")
            state = {"weight": distribute_tensor(torch.zeros(7, 5), small, [Shard(1)])}
            dcp.load(state, checkpoint_id=path, process_group=pair)
            assert torch.equal(state["weight"].full_tensor(), full)
        alone = {"weight": torch.zeros(7, 5)}
        dcp.load(alone, checkpoint_id=path, no_dist=True)
        assert torch.equal(alone["weight"], full)


def begin(ctx, seed):
    network = fully_shard(model(seed), mesh=init_device_mesh("cpu", (ctx.size,)))
    # Gloo has no AVG.
    network.set_force_sum_reduction_for_comms(ctx.backend == "gloo")
    return network, optimizer_of(network)


@multirank(2, 4)
def test_training_goes_on_from_a_checkpoint(ctx):
    """FSDP2 and its optimizer's moments, into a model that begins anew."""
    first, first_optimizer = begin(ctx, 0)
    train(first, first_optimizer, ctx, range(STEPS))
    with folder(ctx) as path:
        state = dict(zip(("model", "optimizer"), get_state_dict(first, first_optimizer), strict=True))
        dcp.save(state, checkpoint_id=path, process_group=ctx.group)
        second, second_optimizer = begin(ctx, 1)
        state = dict(zip(("model", "optimizer"), get_state_dict(second, second_optimizer), strict=True))
        dcp.load(state, checkpoint_id=path, process_group=ctx.group)
        set_state_dict(second, second_optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    for network, optimizer in ((first, first_optimizer), (second, second_optimizer)):
        train(network, optimizer, ctx, range(STEPS, 2 * STEPS))
    for actual, expected in zip(second.parameters(), first.parameters(), strict=True):
        assert torch.equal(actual.to_local(), expected.to_local())


@multirank(2, 4)
def test_parameters_through_rank_0(ctx):
    """Rank 0 gathers the full parameters, and gives them out to a model that has others."""
    (first, _), (second, _) = begin(ctx, 0), begin(ctx, 1)
    state = get_model_state_dict(first, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    assert bool(state) == (ctx.rank == 0)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(second, state, options=options)
    for actual, expected in zip(second.parameters(), model(0).parameters(), strict=True):
        assert torch.equal(actual.full_tensor(), expected)


@multirank(2, 4)
def test_async_save_beside_training(ctx):
    """The checkpoint, which a thread writes over a group of its own, has the parameters of when it was begun."""
    network = DistributedDataParallel(model(), process_group=ctx.group)
    optimizer = optimizer_of(network)
    train(network, optimizer, ctx, range(2))
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    group = ctx.new_group()
    with folder(ctx) as path:
        future = dcp.async_save(network.state_dict(), checkpoint_id=path, process_group=group)
        train(network, optimizer, ctx, range(2, 2 + STEPS))
        future.result()
        dist.barrier(ctx.group)
        loaded = {name: torch.zeros_like(value) for name, value in expected.items()}
        dcp.load(loaded, checkpoint_id=path, process_group=ctx.group)
    for name, value in expected.items():
        assert torch.equal(loaded[name], value), name
