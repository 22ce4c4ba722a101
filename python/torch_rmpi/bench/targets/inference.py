"""Tensor-parallel inference: a transformer in bfloat16 split over 2 ranks, tokens per second."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from os import sched_getaffinity

import torch
import torch.distributed as dist

from torch_rmpi.bench import session, timing
from torch_rmpi.bench.operations import Step
from torch_rmpi.bench.progress import Progress
from torch_rmpi.bench.targets.measured import Measured
from torch_rmpi.bench.targets.target import Family, Scale, Target, microseconds
from torch_rmpi.bench.targets.transformer import Shape, Transformer, split

_SHAPE = Shape(vocabulary=8192, width=512, heads=8, layers=8, longest=256)
_QUICK_SHAPE = Shape(vocabulary=64, width=32, heads=2, layers=2, longest=32)
_LONGER = 10
#: The model whole on rank 0: with its own share of the cores, and with all of them.
_ONE, _ONE_ALL = "one rank", "one rank, all cores"


def _generator(model: Transformer) -> Step:
    """Appends the most likely token to a sequence; when that is full, begins again at its middle."""
    half = model.shape.longest // 2
    cache = model.cache(1)
    prompt = torch.arange(half).remainder(model.shape.vocabulary).unsqueeze(0)
    with torch.inference_mode():
        last = model(prompt, cache)[:, -1:].argmax(dim=-1)

    @torch.inference_mode()
    def step(turn: int) -> None:
        last.copy_(model(last, cache, half + turn % half)[:, -1:].argmax(dim=-1))

    return step


def _only_first(step: Step, threads: int) -> Step:
    """The step on rank 0, with so many threads; nothing on the others."""

    def wrapped(turn: int) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        step(turn)
        torch.set_num_threads(before)

    def nothing(turn: int) -> None:
        del turn

    return wrapped if dist.get_rank() == 0 else nothing


def measure(scale: Scale, progress: Progress) -> Measured:
    """One token at a time: split with each backend, and whole on one rank."""
    torch.manual_seed(0)
    whole = Transformer(_QUICK_SHAPE if scale.quick else _SHAPE).bfloat16().eval()
    steps: dict[str, Step] = {}
    for name, group in session.open_groups(["rmpi", "gloo"]).items():
        assert group is not None
        steps[name] = _generator(split(whole, group).eval())
    # A cache of its own for each.
    steps[_ONE] = _only_first(_generator(whole), torch.get_num_threads())
    steps[_ONE_ALL] = _only_first(_generator(whole), len(sched_getaffinity(0)))
    progress.expect(len(steps) * scale.rounds)
    progress.text = "tensor-parallel inference"
    durations = timing.measure(steps, scale.seconds * _LONGER, scale.rounds, progress.tick)
    parameters = sum(parameter.numel() for parameter in whole.parameters())
    return Measured(
        values={name: statistics.median(runs) / 1e3 for name, runs in durations.items()} | {"parameters": parameters}
    )


def _speedup(rival: str, measured: Measured) -> float:
    return measured.values[rival] / measured.values["rmpi"]


def _tokens(name: str, measured: Measured) -> str:
    time = measured.values[name]
    return f"{name} {1e6 / time:.0f} tokens/s ({microseconds(time)})"


def _detail(rival: str, measured: Measured) -> str:
    both = f"{_tokens('rmpi', measured)}, {_tokens(rival, measured)}"
    return f"{both}; {measured.values['parameters'] / 1e6:.0f} M parameters" if rival == "gloo" else both


def _target(rival: str) -> Target:
    value: Callable[[Measured], float] = partial(_speedup, rival)
    return Target(
        id="TP",
        what=f"tokens/s of a transformer in bfloat16, split over 2 ranks, over {'Gloo' if rival == 'gloo' else rival}",
        rival="Gloo" if rival == "gloo" else rival,
        goal=None,
        unit="x",
        value=value,
        detail=partial(_detail, rival),
    )


FAMILY = Family(
    name="inference",
    ranks=2,
    measure=measure,
    computes=True,
    targets=tuple(_target(rival) for rival in ("gloo", _ONE, _ONE_ALL)),
)
