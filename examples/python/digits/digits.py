"""The images: scikit-learn's digits, 1,797 grey pictures of 8 x 8 pixels, shipped with scikit-learn."""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

SEED = 2026


@dataclass(frozen=True)
class Digits:
    """Images (n, 1, 8, 8) in float64, in [0, 1], and their labels 0 to 9."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load() -> Digits:
    """Splits the images 4:1 into training and test, the same way on every rank."""
    data = load_digits()
    train_images, test_images, train_labels, test_labels = train_test_split(
        data.images, data.target, test_size=0.2, random_state=SEED, stratify=data.target
    )

    def images(array) -> Tensor:
        return torch.from_numpy(array).unsqueeze(1) / 16

    return Digits(images(train_images), torch.tensor(train_labels), images(test_images), torch.tensor(test_labels))


def epoch_batches(count: int, global_batch: int, epoch: int) -> Tensor:
    """The order in which an epoch visits the images: one row of indices for each global batch.

    It depends on the epoch alone, so every rank computes the same one. What does not fill a batch is left out: only
    with parts of equal size is the mean over the ranks' gradients the gradient of the global batch.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SEED + epoch))
    steps = count // global_batch
    return order[: steps * global_batch].view(steps, global_batch)
