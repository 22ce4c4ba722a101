"""FSDP2 (`fully_shard`) on the CPU, in f32 and in bf16 mixed precision, equals training in one process.

It reduces with AVG, and with PREMUL_SUM once a gradient divide factor is set.
"""

import torch
from multirank import multirank
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from training import RATE, STEPS, loss_of, model, train_alone


def shard(ctx, policy):
    mesh = init_device_mesh("cpu", (ctx.size,))
    network = model()
    for layer in network:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)
    if ctx.backend == "gloo":
        # Gloo has neither AVG nor PREMUL_SUM.
        network.set_force_sum_reduction_for_comms(True)
        for layer in network:
            if hasattr(layer, "set_force_sum_reduction_for_comms"):
                layer.set_force_sum_reduction_for_comms(True)
    return network


def train(ctx, network):
    optimizer = torch.optim.SGD(network.parameters(), RATE)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(network, step, ctx.rank).backward()
        optimizer.step()
    return [parameter.full_tensor().detach() for parameter in network.parameters()]


def assert_close(actual, expected, tolerance):
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


def divide_by(network, factor):
    for layer in network.modules():
        if hasattr(layer, "set_gradient_divide_factor"):
            layer.set_gradient_divide_factor(factor)


@multirank(2, 4)
def test_f32(ctx):
    network = shard(ctx, MixedPrecisionPolicy())
    assert_close(train(ctx, network), train_alone(ctx.size), 1e-6)


@multirank(2, 4)
def test_bf16_with_f32_reduction(ctx):
    """Both sides compute in bf16, so they differ by the order of f32 sums only."""
    network = shard(ctx, MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))
    assert_close(train(ctx, network), train_alone(ctx.size, torch.bfloat16), 1e-4)


@multirank(2, 4)
def test_bf16_with_bf16_reduction(ctx):
    network = shard(ctx, MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16))
    expected = train_alone(ctx.size, torch.bfloat16, reduce_dtype=torch.bfloat16)
    assert_close(train(ctx, network), expected, 5e-3)


@multirank(2, 4)
def test_gradient_divide_factor(ctx):
    factor = 3.0
    for policy, dtype, tolerance in (
        (MixedPrecisionPolicy(), torch.float32, 1e-6),
        (MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32), torch.bfloat16, 1e-4),
    ):
        network = shard(ctx, policy)
        divide_by(network, factor)
        assert_close(train(ctx, network), train_alone(ctx.size, dtype, divisor=factor), tolerance)


@multirank(4)
def test_hybrid_sharding(ctx):
    """Shards within pairs, replicas between them: AVG in both groups."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    network = fully_shard(model(), mesh=mesh)
    if ctx.backend == "gloo":
        network.set_force_sum_reduction_for_comms(True)
    assert_close(train(ctx, network), train_alone(ctx.size), 1e-6)
