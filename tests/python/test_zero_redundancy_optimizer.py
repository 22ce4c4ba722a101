"""ZeroRedundancyOptimizer, whose ranks have a part of the optimizer's state each, equals training in one process."""

import torch
from multirank import multirank
from torch.distributed.algorithms.ddp_comm_hooks.ddp_zero_hook import (
    hook_with_zero_step,
    hook_with_zero_step_interleaved,
)
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from training import RATE, STEPS, assert_equal_to_one_process, loss_of, model, train


def wrap(ctx, **options):
    return DistributedDataParallel(model(seed=ctx.rank), process_group=ctx.group, **options)


def zero(ctx, network, optimizer=torch.optim.SGD, **options):
    options = {"lr": RATE} | options
    return ZeroRedundancyOptimizer(network.parameters(), optimizer, ctx.group, **options)


def adam_alone(size):
    network = model()
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE / 10)
    for step in range(STEPS):
        optimizer.zero_grad()
        for rank in range(size):
            (loss_of(network, step, rank) / size).backward()
        optimizer.step()
    return network, optimizer


def assert_same_parameters(network, expected, tolerance=1e-5):
    for actual, wanted in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(actual.detach(), wanted.detach(), rtol=tolerance, atol=tolerance)


@multirank(2, 4)
def test_sgd(ctx):
    for options in ({}, {"parameters_as_bucket_view": True}):
        network = wrap(ctx)
        train(network, ctx.rank, zero(ctx, network, **options))
        assert_equal_to_one_process(ctx, network)


@multirank(2, 4)
def test_consolidated_state(ctx):
    """Rank 1 gets the state of all parameters, and an optimizer that loads it goes on as if nothing had happened."""
    network = wrap(ctx)
    optimizer = zero(ctx, network, torch.optim.Adam, lr=RATE / 10)
    train(network, ctx.rank, optimizer)
    expected, of_one_process = adam_alone(ctx.size)
    assert_same_parameters(network, expected)
    optimizer.consolidate_state_dict(to=1)
    if ctx.rank == 1:
        state = optimizer.state_dict()["state"]
        for index, wanted in of_one_process.state_dict()["state"].items():
            for name in ("exp_avg", "exp_avg_sq", "step"):
                torch.testing.assert_close(state[index][name], wanted[name], rtol=1e-4, atol=1e-7)


@multirank(2, 4, gloo=False)
def test_overlap_with_ddp(ctx):
    """Steps are taken in backward, as soon as the gradients of a bucket are there. torch refuses it over Gloo.

    Interleaved with one bucket only: operations that its callbacks issue have no order among those of other buckets,
    on the CPU. The first two steps find out what the buckets are, and change nothing.
    """
    for hook, megabytes, shard_buckets in (
        (hook_with_zero_step, 0.0001, False),
        (hook_with_zero_step, 0.0001, True),
        (hook_with_zero_step_interleaved, 1, False),
    ):
        network = wrap(ctx, bucket_cap_mb=megabytes, gradient_as_bucket_view=True)
        optimizer = zero(ctx, network, overlap_with_ddp=True)
        network.register_comm_hook(None, hook(allreduce_hook, network, optimizer, shard_buckets=shard_buckets))
        for _ in range(2):
            loss_of(network, 0, ctx.rank).backward()
            optimizer.step()
            optimizer.zero_grad()
        train(network, ctx.rank, optimizer)
        assert_equal_to_one_process(ctx, network)
