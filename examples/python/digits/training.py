"""The training loop: the same one for one process and for many."""

import time
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from digits import SEED, Digits, epoch_batches
from torch import nn
from torch.nn.functional import cross_entropy

GLOBAL_BATCH = 48
LEARNING_RATE = 0.1
MOMENTUM = 0.9


@dataclass(frozen=True)
class Epoch:
    """What one epoch did: mean training loss, accuracy on the test images, training images per second of all ranks."""

    number: int
    loss: float
    accuracy: float
    images_per_second: float


class Observer(Protocol):
    """Hears how a training goes."""

    def step(self, epoch: int, step: int, steps: int) -> None:
        """A step of an epoch is done."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is done."""


def network() -> nn.Module:
    """A small convolutional network, with the same parameters wherever it is made.

    In float64: the sum of the ranks' gradients is rounded in another order than one process rounds, and training
    magnifies such differences step by step. From float64's they stay far below anything visible.
    """
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    ).double()


def train(
    model: nn.Module, digits: Digits, epochs: int, rank: int, ranks: int, observer: Observer | None
) -> list[Epoch]:
    """Trains `model` and returns what each epoch did, the same on every rank.

    Each rank takes its part of every global batch. With `ranks` > 1 the model is a DistributedDataParallel, which
    averages the gradients.
    """
    if GLOBAL_BATCH % ranks:
        raise SystemExit(f"{ranks} ranks cannot share a batch of {GLOBAL_BATCH} equally: use 1, 2, 3, 4, 6, 8, ...")
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    history = []
    for epoch in range(1, epochs + 1):
        # The last third refines what the others found.
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE if 3 * epoch <= 2 * epochs else LEARNING_RATE / 10
        start = time.perf_counter()
        batches = epoch_batches(len(digits.train_images), GLOBAL_BATCH, epoch)
        loss_sum = torch.zeros((), dtype=torch.float64)
        for step, batch in enumerate(batches):
            part = batch.view(ranks, -1)[rank]
            loss = cross_entropy(model(digits.train_images[part]), digits.train_labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach()
            if observer:
                observer.step(epoch, step + 1, len(batches))
        seconds = time.perf_counter() - start
        if ranks > 1:
            dist.all_reduce(loss_sum, op=dist.ReduceOp.AVG)
        history.append(
            Epoch(
                number=epoch,
                loss=loss_sum.item() / len(batches),
                accuracy=evaluate(model, digits, rank, ranks),
                images_per_second=batches.numel() / seconds,
            )
        )
        if observer:
            observer.epoch(history[-1])
    return history


@torch.no_grad()
def evaluate(model: nn.Module, digits: Digits, rank: int, ranks: int) -> float:
    """The fraction of the test images that `model` gets right; each rank looks at every `ranks`-th."""
    images, labels = digits.test_images[rank::ranks], digits.test_labels[rank::ranks]
    correct = (model(images).argmax(dim=1) == labels).sum()
    if ranks > 1:
        dist.all_reduce(correct)
    return correct.item() / len(digits.test_labels)
