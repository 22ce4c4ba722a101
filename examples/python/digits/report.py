"""What the example shows: a progress bar, a table, and learning curves."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from training import Epoch

BAR_WIDTH = 40


class Report:
    """Prints a line for each epoch, if `table`, and below it a progress bar, if `bar`."""

    def __init__(self, epochs: int, *, table: bool, bar: bool) -> None:
        self.epochs = epochs
        self.table = table
        self.bar = bar
        if table:
            print(f"{'epoch':>5}  {'loss':>8}  {'accuracy':>8}  {'images/s':>8}", flush=True)

    def step(self, epoch: int, step: int, steps: int) -> None:
        if self.bar:
            done = ((epoch - 1) * steps + step) / (self.epochs * steps)
            print(f"\r[{'#' * round(done * BAR_WIDTH):<{BAR_WIDTH}}] {100 * done:3.0f} %", end="", flush=True)

    def epoch(self, epoch: Epoch) -> None:
        if self.bar:
            # The line of the bar: what follows takes its place.
            print("\r\033[K", end="", flush=True)
        if self.table:
            print(
                f"{epoch.number:>5}  {epoch.loss:>8.4f}  {epoch.accuracy:>8.2%}  {epoch.images_per_second:>8,.0f}",
                flush=True,
            )


def plot(distributed: list[Epoch], alone: list[Epoch], ranks: int, path: Path) -> None:
    """Writes the learning curves of both trainings, which should cover each other."""
    figure, (loss, accuracy) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for history, label, style in (
        (distributed, f"{ranks} ranks", {"linewidth": 4, "alpha": 0.4}),
        (alone, "one process", {"linestyle": "--", "color": "black"}),
    ):
        numbers = [epoch.number for epoch in history]
        loss.plot(numbers, [epoch.loss for epoch in history], label=label, **style)
        accuracy.plot(numbers, [100 * epoch.accuracy for epoch in history], label=label, **style)
    loss.set(title="training loss", xlabel="epoch", yscale="log")
    accuracy.set(title="test accuracy, %", xlabel="epoch")
    loss.legend()
    accuracy.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
