"""A small model and its training in one process, which the training on several ranks must equal."""

import torch
from torch import nn

STEPS = 4
RATE = 0.1
BATCH = 6


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))


def batch(step, rank):
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randn(BATCH, 8, generator=generator), torch.randn(BATCH, 3, generator=generator)


def loss_of(network, step, rank, dtype=torch.float32):
    inputs, targets = batch(step, rank)
    return nn.functional.mse_loss(network(inputs.to(dtype)).float(), targets)


def train(network, rank, optimizer=None, steps=STEPS):
    """Takes steps with the batches of this rank, by SGD unless another optimizer is given."""
    optimizer = optimizer or torch.optim.SGD(network.parameters(), RATE)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(network, step, rank).backward()
        optimizer.step()


def train_alone(size, dtype=torch.float32, divisor=None, reduce_dtype=torch.float32):
    """One process that takes the gradients of all ranks' batches, sums and divides them, and steps in f32.

    `dtype`: of parameters and activations in forward and backward; `reduce_dtype`: in which the gradients are summed,
    rounded once. Returns the parameters.
    """
    master = model()
    for step in range(STEPS):
        sums = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in master.parameters()]
        for rank in range(size):
            local = model().to(dtype)
            local.load_state_dict({name: value.to(dtype) for name, value in master.state_dict().items()})
            loss_of(local, step, rank, dtype).backward()
            for total, parameter in zip(sums, local.parameters(), strict=True):
                total.add_(parameter.grad.to(reduce_dtype))
        with torch.no_grad():
            for total, parameter in zip(sums, master.parameters(), strict=True):
                parameter.sub_(RATE * (total / (divisor or size)).to(reduce_dtype).float())
    return [parameter.detach() for parameter in master.parameters()]


def assert_equal_to_one_process(ctx, network, tolerance=1e-6):
    """For a network that `train` has trained on all ranks."""
    for actual, expected in zip(network.parameters(), train_alone(ctx.size), strict=True):
        torch.testing.assert_close(actual.detach(), expected, rtol=tolerance, atol=tolerance)
