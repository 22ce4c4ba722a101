"""Time over size, one picture per operation, both axes logarithmic."""

from __future__ import annotations

from pathlib import Path

from torch_rmpi.bench.results import Report


def save(report: Report, path: Path) -> None:
    """Writes a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = list(dict.fromkeys((result.op, result.dtype) for result in report.results))
    columns = max(1, min(3, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure, axes = plt.subplots(rows, columns, figsize=(4.5 * columns, 3.6 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (op, dtype) in zip(axes.flat, panels, strict=False):
        chosen = [result for result in report.results if (result.op, result.dtype) == (op, dtype)]
        for backend in dict.fromkeys(result.backend for result in chosen):
            line = sorted((result.bytes, result.median) for result in chosen if result.backend == backend)
            style = "--" if backend in {"noop", "memcpy"} else "-"
            axis.plot(*zip(*line, strict=True), style, marker="o", markersize=3, label=backend)
        axis.set(title=f"{op} {dtype}", xscale="log", yscale="log", xlabel="bytes", ylabel="microseconds")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    machine = report.machine
    about = f"{report.ranks} ranks, {machine['cores']} cores ({machine['cpu']}), torch {machine['torch']}"
    figure.suptitle(about, fontsize="medium")
    figure.savefig(path, dpi=120)
    plt.close(figure)
