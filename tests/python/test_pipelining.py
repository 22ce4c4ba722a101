"""Training by a pipeline schedule equals training in one process, whatever the schedule and the stages on each rank."""

import torch
import torch.distributed.config as dist_config
from multirank import multirank
from torch import nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleLoopedBFS,
    ScheduleZBVZeroBubble,
)
from versions import since

WIDTH, BATCH, MICROBATCHES, STEPS, RATE = 10, 16, 8, 3, 0.1


def layers(count):
    """The layers of the network: one for each stage."""
    torch.manual_seed(11)
    return [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(count)]


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, WIDTH, generator=generator), torch.randn(BATCH, WIDTH, generator=generator)


def alone(stages):
    """Trains in one process; returns the layers and the loss of each step."""
    network = nn.Sequential(*layers(stages))
    optimizer = torch.optim.SGD(network.parameters(), RATE)
    losses = []
    for step in range(STEPS):
        inputs, targets = batch(step)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(network(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return network, losses


def check(ctx, schedule_of, indices, stages):
    """Trains the stages of these indices on this rank; `schedule_of`: makes the schedule from the PipelineStages."""
    mine = [layers(stages)[index] for index in indices]
    parts = [
        PipelineStage(layer, index, stages, torch.device("cpu"), group=ctx.group)
        for layer, index in zip(mine, indices, strict=True)
    ]
    schedule = schedule_of(parts)
    optimizer = torch.optim.SGD([parameter for layer in mine for parameter in layer.parameters()], RATE)
    expected, expected_losses = alone(stages)
    for step in range(STEPS):
        inputs, targets = batch(step)
        optimizer.zero_grad()
        losses = []
        arguments = [inputs] if 0 in indices else []
        last = {"target": targets, "losses": losses} if stages - 1 in indices else {}
        schedule.step(*arguments, **last)
        optimizer.step()
        if last:
            mean = torch.stack([loss.detach() for loss in losses]).mean()
            torch.testing.assert_close(mean.item(), expected_losses[step], rtol=1e-5, atol=1e-6)
    for layer, index in zip(mine, indices, strict=True):
        for actual, wanted in zip(layer.parameters(), expected[index].parameters(), strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-6)


def one_stage(ctx, schedule):
    def schedule_of(stages):
        return schedule(stages[0], n_microbatches=MICROBATCHES, loss_fn=nn.functional.mse_loss)

    check(ctx, schedule_of, [ctx.rank], ctx.size)


def several_stages(ctx, schedule, indices):
    def schedule_of(stages):
        return schedule(stages, n_microbatches=MICROBATCHES, loss_fn=nn.functional.mse_loss)

    check(ctx, schedule_of, indices, 2 * ctx.size)


@multirank(2, 4)
def test_gpipe(ctx):
    one_stage(ctx, ScheduleGPipe)


@multirank(2, 4)
def test_1f1b(ctx):
    one_stage(ctx, Schedule1F1B)


@multirank(2, 4)
def test_looped_bfs(ctx):
    several_stages(ctx, ScheduleLoopedBFS, [ctx.rank, ctx.rank + ctx.size])


@multirank(2, 4)
def test_interleaved_1f1b(ctx):
    several_stages(ctx, ScheduleInterleaved1F1B, [ctx.rank, ctx.rank + ctx.size])


@multirank(2, 4)
def test_interleaved_zero_bubble(ctx):
    several_stages(ctx, ScheduleInterleavedZeroBubble, [ctx.rank, ctx.rank + ctx.size])


@multirank(2, 4)
def test_zbv_zero_bubble(ctx):
    """The stages go down the ranks and up again."""
    several_stages(ctx, ScheduleZBVZeroBubble, [ctx.rank, 2 * ctx.size - 1 - ctx.rank])


@since((2, 15), "groups for each pair of stages")
@multirank(2, 4)
def test_groups_for_each_pair_of_stages(ctx):
    """torch splits off a group for each direction between two ranks, so that messages of one do not wait for others."""
    with dist_config.patch(pipeline_per_edge_p2p=True):
        one_stage(ctx, Schedule1F1B)
        several_stages(ctx, ScheduleInterleaved1F1B, [ctx.rank, ctx.rank + ctx.size])
