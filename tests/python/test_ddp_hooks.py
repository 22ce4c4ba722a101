"""Communication hooks of DistributedDataParallel: training equals that in one process, as exactly as they promise."""

import torch
import torch.distributed as dist
from multirank import multirank
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel
from training import RATE, assert_equal_to_one_process, loss_of, model, train


def wrap(ctx, **options):
    return DistributedDataParallel(model(seed=ctx.rank), process_group=ctx.group, **options)


def check(ctx, hook, tolerance=1e-6, state=None, bucket_cap_mb=0.0001):
    """Of several buckets, unless a larger limit is given."""
    network = wrap(ctx, bucket_cap_mb=bucket_cap_mb)
    network.register_comm_hook(ctx.group if state is None else state, hook)
    train(network, ctx.rank)
    assert_equal_to_one_process(ctx, network, tolerance)
    ctx.same([parameter.tolist() for parameter in network.parameters()])


@multirank(2, 4)
def test_all_reduce_hook(ctx):
    check(ctx, default_hooks.allreduce_hook)


@multirank(2, 4)
def test_half_precision_hooks(ctx):
    check(ctx, default_hooks.bf16_compress_hook, tolerance=0.02)
    check(ctx, default_hooks.fp16_compress_hook, tolerance=0.002)
    check(ctx, default_hooks.bf16_compress_wrapper(default_hooks.allreduce_hook), tolerance=0.02)


@multirank(2, 4)
def test_power_sgd_of_full_rank(ctx):
    """With as many columns as the matrices have, nothing is lost.

    One bucket: operations that PowerSGD's callbacks issue have no order among those of other buckets, on the CPU.
    """
    state = powerSGD_hook.PowerSGDState(
        ctx.group, matrix_approximation_rank=16, start_powerSGD_iter=2, min_compression_rate=0.01
    )
    check(ctx, powerSGD_hook.powerSGD_hook, state=state, tolerance=1e-4, bucket_cap_mb=1)


@multirank(2, 4)
def test_power_sgd_of_rank_1(ctx):
    """The error goes into the next step, so the loss falls, and all ranks have the same parameters."""
    network = wrap(ctx)
    state = powerSGD_hook.PowerSGDState(ctx.group, matrix_approximation_rank=1, start_powerSGD_iter=2)
    network.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    optimizer = torch.optim.SGD(network.parameters(), RATE)
    before = sum(loss_of(network.module, 0, rank).item() for rank in range(ctx.size))
    for _ in range(6):
        optimizer.zero_grad()
        loss_of(network, 0, ctx.rank).backward()
        optimizer.step()
    assert sum(loss_of(network.module, 0, rank).item() for rank in range(ctx.size)) < before
    ctx.same([parameter.tolist() for parameter in network.parameters()])


def all_reduce_of_halves(group, bucket):
    """A future of several operations."""
    halves = (bucket.buffer() / dist.get_world_size(group)).chunk(2)
    works = [dist.all_reduce(half, group=group, async_op=True) for half in halves]
    return torch.futures.collect_all([work.get_future() for work in works]).then(
        lambda futures: torch.cat([future.value()[0] for future in futures.value()])
    )


def mean_of_all_gathered(group, bucket):
    parts = [torch.empty_like(bucket.buffer()) for _ in range(dist.get_world_size(group))]
    work = dist.all_gather(parts, bucket.buffer(), group=group, async_op=True)
    return work.get_future().then(lambda _: torch.stack(parts).mean(0))


def reduce_scatter_then_all_gather(groups, bucket):
    """A callback that issues an operation and waits for it.

    `groups`: one for each bucket, since such operations have no order among those that backward issues.
    """
    group, buffer = groups[bucket.index()], bucket.buffer()
    size = dist.get_world_size(group)
    padded = torch.nn.functional.pad(buffer / size, (0, -buffer.numel() % size))
    shard = torch.empty(padded.numel() // size)

    def gather(future):
        future.value()
        dist.all_gather_into_tensor(padded, shard, group=group)
        return padded[: buffer.numel()]

    return dist.reduce_scatter_tensor(shard, padded, group=group, async_op=True).get_future().then(gather)


@multirank(2, 4)
def test_hooks_of_futures(ctx):
    check(ctx, all_reduce_of_halves)
    check(ctx, mean_of_all_gathered)


@multirank(2, 4, gloo=False)
def test_hook_whose_callback_communicates(ctx):
    """Gloo's reduce_scatter_tensor has no future."""
    check(ctx, reduce_scatter_then_all_gather, state=[ctx.new_group() for _ in range(6)])
