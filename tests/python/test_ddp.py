"""DistributedDataParallel equals training in one process."""

import contextlib

import torch
from multirank import multirank
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from training import BATCH, RATE, STEPS, assert_equal_to_one_process, loss_of, model, train


def wrap(ctx, **options):
    # Every rank begins with other parameters: DDP must send those of rank 0 to all.
    return DistributedDataParallel(model(seed=ctx.rank), process_group=ctx.group, **options)


def assert_trains_as_one_process(ctx, make, loss_of, **options):
    """For any model, `make(seed)`, and any loss of a step and rank. A gradient is the mean over the ranks."""
    network = DistributedDataParallel(make(ctx.rank), process_group=ctx.group, **options)
    plain = make(0)
    optimizers = [torch.optim.SGD(each.parameters(), RATE) for each in (network, plain)]
    for step in range(STEPS):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss_of(network, step, ctx.rank).backward()
        for rank in range(ctx.size):
            (loss_of(plain, step, rank) / ctx.size).backward()
        for optimizer in optimizers:
            optimizer.step()
    for (name, actual), expected in zip(network.module.named_parameters(), plain.parameters(), strict=True):
        assert (actual.grad is None) == (expected.grad is None), name
        torch.testing.assert_close(actual.detach(), expected.detach(), rtol=1e-5, atol=1e-6)


@multirank(1, 2, 4)
def test_equals_one_process(ctx):
    for options in ({}, {"gradient_as_bucket_view": True}, {"find_unused_parameters": True}, {"static_graph": True}):
        network = wrap(ctx, **options)
        train(network, ctx.rank)
        assert_equal_to_one_process(ctx, network)


@multirank(2, 4)
def test_several_buckets(ctx):
    """Each is reduced as soon as backward has its gradients, while it goes on with the others."""
    for view in (False, True):
        network = wrap(ctx, bucket_cap_mb=0.0001, gradient_as_bucket_view=view)
        train(network, ctx.rank)
        assert_equal_to_one_process(ctx, network)
        assert len(network._get_ddp_logging_data()["rebuilt_bucket_sizes"].split(",")) == 3


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


class Branches(nn.Module):
    """Of four branches a call uses one, and of the last one nobody."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(8, 8)
        self.branches = nn.ModuleList(nn.Linear(8, 3) for _ in range(4))

    def forward(self, inputs, branch):
        return self.branches[branch](torch.tanh(self.first(inputs)))


def loss_of_branch(network, step, rank):
    return loss_of(lambda inputs: network(inputs, (step + rank) % 3), step, rank)


@multirank(2, 4)
def test_unused_parameters(ctx):
    """Ranks that use different parameters in each step."""
    for view in (False, True):
        assert_trains_as_one_process(
            ctx,
            Branches,
            loss_of_branch,
            find_unused_parameters=True,
            gradient_as_bucket_view=view,
            bucket_cap_mb=0.0001,
        )


class Recomputing(nn.Module):
    """Uses one layer twice, another one never, and computes activations again in backward."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.twice, self.last, self.unused = (nn.Linear(8, width) for width in (8, 8, 3, 3))

    def forward(self, inputs):
        hidden = torch.tanh(self.first(inputs))
        for _ in range(2):
            hidden = checkpoint(lambda given: torch.tanh(self.twice(given)), hidden, use_reentrant=False)
        return self.last(hidden)


@multirank(2, 4)
def test_static_graph(ctx):
    assert_trains_as_one_process(ctx, Recomputing, loss_of, static_graph=True, bucket_cap_mb=0.0001)


class Words(nn.Module):
    """Embeddings with sparse gradients: of rows that differ by rank, and repeat."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.EmbeddingBag(20, 8, sparse=True)
        self.output = nn.Linear(8, 3)

    def forward(self, words):
        return self.output(self.embedding(words))


def loss_of_words(network, step, rank):
    generator = torch.Generator().manual_seed(50 * step + rank)
    words = torch.randint(rank, 12 + rank, (BATCH, 3 + rank), generator=generator)
    return loss_of(lambda _: network(words), step, rank)


@multirank(2, 4)
def test_sparse_embedding(ctx):
    assert_trains_as_one_process(ctx, Words, loss_of_words)


@multirank(2, 4)
def test_join_with_uneven_inputs(ctx):
    """Rank r has r + 2 batches; a mean is over all ranks, or over those that still have one. All end with one model."""
    batches = [rank + 2 for rank in range(ctx.size)]
    for all_ranks in (True, False):
        network, plain = wrap(ctx), model()
        with network.join(divide_by_initial_world_size=all_ranks):
            train(network, ctx.rank, steps=batches[ctx.rank])
        optimizer = torch.optim.SGD(plain.parameters(), RATE)
        for step in range(max(batches)):
            optimizer.zero_grad()
            active = [rank for rank in range(ctx.size) if step < batches[rank]]
            for rank in active:
                (loss_of(plain, step, rank) / (ctx.size if all_ranks else len(active))).backward()
            optimizer.step()
        for actual, expected in zip(network.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(actual.detach(), expected.detach(), rtol=1e-5, atol=1e-6)


@multirank(2, 4)
def test_buffers_follow_rank_0(ctx):
    network = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    network = DistributedDataParallel(network, process_group=ctx.group)
    for step in range(3):
        loss_of(network, step, ctx.rank).backward()
    # Forward sends the buffers of rank 0 before it computes; in evaluation it leaves them as they came.
    network.require_forward_param_sync = True
    network._sync_buffers()
    mean = network.module[1].running_mean
    ctx.same(mean.tolist())
