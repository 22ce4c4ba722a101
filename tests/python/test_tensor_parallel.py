"""Training with `parallelize_module` (column, row and sequence parallel) equals training in one process."""

import contextlib

import torch
from multirank import multirank
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)

BATCH, LENGTH, WIDTH, HEADS, CLASSES = 4, 8, 16, 4, 12
STEPS = 3
RATE = 0.1


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, hidden):
        # With column parallel projections each rank has some of the heads.
        heads = [
            projection(hidden).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        ]
        mixed = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, hidden):
        hidden = hidden + self.attention(self.norm1(hidden))
        return hidden + self.mlp(self.norm2(hidden))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, WIDTH)
        self.block = Block()
        self.norm = nn.LayerNorm(WIDTH)
        self.output = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens):
        return self.output(self.norm(self.block(self.embedding(tokens))))


def transformer():
    torch.manual_seed(3)
    return Transformer()


def tokens_of(step, part=0):
    generator = torch.Generator().manual_seed(100 * step + part)
    return torch.randint(0, CLASSES, (BATCH, LENGTH + 1), generator=generator)


def loss_of(network, tokens):
    logits = network(tokens[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def train(network, parts=(0,)):
    """Some steps over the mean loss of these parts of each step's batch."""
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = sum(loss_of(network, tokens_of(step, part)) for part in parts) / len(parts)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def full(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assert_trains_as_one_process(network, parts=(0,), mine=(0,), context=contextlib.nullcontext):
    """`parts`: of each batch, which one process trains on; `mine`: on which of them this rank does."""
    expected = transformer()
    losses = train(expected, parts)
    with context():
        actual = train(network, mine)
    if parts == mine:
        torch.testing.assert_close(full(actual), losses, rtol=1e-4, atol=1e-5)
    for (name, parameter), reference in zip(network.named_parameters(), expected.parameters(), strict=True):
        difference = (full(parameter.detach()) - reference.detach()).abs().max()
        assert difference < 1e-5, f"{name} differs by {difference}"


COLUMN_AND_ROW = {
    "block.attention.query": ColwiseParallel(),
    "block.attention.key": ColwiseParallel(),
    "block.attention.value": ColwiseParallel(),
    "block.attention.out": RowwiseParallel(),
    "block.mlp.0": ColwiseParallel(),
    "block.mlp.2": RowwiseParallel(),
}


def sequence_parallel():
    """Between the linear layers the ranks share the sequence: all_gather before, reduce_scatter after."""
    gathered = {"input_layouts": (Shard(1),), "desired_input_layouts": (Replicate(),)}
    return {
        "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "block.norm1": SequenceParallel(),
        "block.norm2": SequenceParallel(),
        "block.attention": PrepareModuleInput(**gathered),
        "block.attention.query": ColwiseParallel(),
        "block.attention.key": ColwiseParallel(),
        "block.attention.value": ColwiseParallel(),
        "block.attention.out": RowwiseParallel(output_layouts=Shard(1)),
        "block.mlp": PrepareModuleInput(**gathered),
        "block.mlp.0": ColwiseParallel(),
        "block.mlp.2": RowwiseParallel(output_layouts=Shard(1)),
        "norm": SequenceParallel(),
    }


@multirank(2, 4)
def test_column_and_row_parallel(ctx):
    mesh = init_device_mesh("cpu", (ctx.size,))
    network = parallelize_module(transformer(), mesh, COLUMN_AND_ROW)
    assert network.block.mlp[0].weight.to_local().shape == (4 * WIDTH // ctx.size, WIDTH)
    assert_trains_as_one_process(network)


@multirank(2, 4)
def test_sequence_parallel(ctx):
    mesh = init_device_mesh("cpu", (ctx.size,))
    output = ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate())
    network = parallelize_module(transformer(), mesh, sequence_parallel() | {"output": output})
    assert_trains_as_one_process(network)


@multirank(2, 4)
def test_loss_parallel(ctx):
    """The logits stay in shards of the classes; the cross entropy is computed over all of them."""
    mesh = init_device_mesh("cpu", (ctx.size,))
    output = ColwiseParallel(input_layouts=Shard(1), output_layouts=Shard(-1), use_local_output=False)
    network = parallelize_module(transformer(), mesh, sequence_parallel() | {"output": output})
    assert_trains_as_one_process(network, context=loss_parallel)


@multirank(4)
def test_with_fsdp2_on_a_mesh_of_two_dimensions(ctx):
    """Pairs share the tensors; each pair has its part of the batch."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    network = parallelize_module(transformer(), mesh["tp"], COLUMN_AND_ROW)
    fully_shard(network.block, mesh=mesh["dp"])
    fully_shard(network, mesh=mesh["dp"])
    if ctx.backend == "gloo":
        for module in (network.block, network):
            module.set_force_sum_reduction_for_comms(True)
    assert_trains_as_one_process(network, parts=(0, 1), mine=(mesh.get_local_rank("dp"),))
