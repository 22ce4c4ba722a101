"""DistributedDataParallel equals training in one process."""

import contextlib

import torch
import torch.distributed as dist
from multirank import multirank
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from training import RATE, STEPS, loss_of, model, train_alone


def wrap(ctx, **options):
    # Every rank begins with other parameters: DDP must send those of rank 0 to all.
    return DistributedDataParallel(model(seed=ctx.rank), process_group=ctx.group, **options)


def train(ctx, network, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(network.parameters(), RATE)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(network, step, ctx.rank).backward()
        optimizer.step()


def assert_equal_to_one_process(ctx, network, tolerance=1e-6):
    for actual, expected in zip(network.parameters(), train_alone(ctx.size), strict=True):
        torch.testing.assert_close(actual.detach(), expected, rtol=tolerance, atol=tolerance)


@multirank(1, 2, 4)
def test_equals_one_process(ctx):
    for options in ({}, {"bucket_cap_mb": 0.0005}, {"gradient_as_bucket_view": True}, {"find_unused_parameters": True}):
        network = wrap(ctx, **options)
        train(ctx, network)
        assert_equal_to_one_process(ctx, network)


@multirank(2, 4)
def test_bf16_hook(ctx):
    network = wrap(ctx)
    network.register_comm_hook(ctx.group, default_hooks.bf16_compress_hook)
    train(ctx, network)
    assert_equal_to_one_process(ctx, network, tolerance=0.02)


@multirank(2, 4)
def test_all_reduce_hook(ctx):
    network = wrap(ctx)
    network.register_comm_hook(ctx.group, default_hooks.allreduce_hook)
    train(ctx, network)
    assert_equal_to_one_process(ctx, network)


@multirank(2, 4)
def test_no_sync_accumulates(ctx):
    """Two backward passes, of which only the second communicates, equal one over the summed loss."""
    network, plain = wrap(ctx), model()
    for step in range(2):
        with network.no_sync() if step == 0 else contextlib.nullcontext():
            loss_of(network, step, ctx.rank).backward()
    for rank in range(ctx.size):
        for step in range(2):
            (loss_of(plain, step, rank) / ctx.size).backward()
    for actual, expected in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-5, atol=1e-6)


@multirank(2, 4)
def test_zero_redundancy_optimizer(ctx):
    network = wrap(ctx)
    optimizer = ZeroRedundancyOptimizer(network.parameters(), torch.optim.SGD, ctx.group, lr=RATE)
    train(ctx, network, optimizer)
    assert_equal_to_one_process(ctx, network)


@multirank(2, 4)
def test_join_with_uneven_inputs(ctx):
    network = wrap(ctx)
    with network.join():
        for step in range(ctx.rank + 1):
            loss_of(network, step, ctx.rank).backward()
    dist.barrier(ctx.group)


@multirank(2, 4)
def test_buffers_follow_rank_0(ctx):
    network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))
    network = DistributedDataParallel(network, process_group=ctx.group)
    for step in range(3):
        loss_of(network, step, ctx.rank).backward()
    # Forward sends the buffers of rank 0 before it computes; in evaluation it leaves them as they came.
    network.require_forward_param_sync = True
    network._sync_buffers()
    mean = network.module[1].running_mean
    ctx.same(mean.tolist())


@multirank(2, 4)
def test_comm_hooks(ctx):
    """PowerSGD's waits for futures in callbacks of others."""
    hooks = [
        (
            powerSGD_hook.PowerSGDState(ctx.group, matrix_approximation_rank=1, start_powerSGD_iter=2),
            powerSGD_hook.powerSGD_hook,
        ),
        (ctx.group, default_hooks.fp16_compress_hook),
        (ctx.group, default_hooks.bf16_compress_hook),
    ]
    for state, hook in hooks:
        network = torch.nn.Sequential(torch.nn.Linear(8, 50), torch.nn.Tanh(), torch.nn.Linear(50, 3))
        network = DistributedDataParallel(network, process_group=ctx.group, bucket_cap_mb=0.001)
        network.register_comm_hook(state, hook)
        optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
        before = [loss_of(network.module, 0, rank).item() for rank in range(ctx.size)]
        for _ in range(6):
            optimizer.zero_grad()
            loss_of(network, 0, ctx.rank).backward()
            optimizer.step()
        assert sum(loss_of(network.module, 0, rank).item() for rank in range(ctx.size)) < sum(before), hook.__name__
        ctx.same([parameter.tolist() for parameter in network.parameters()])
