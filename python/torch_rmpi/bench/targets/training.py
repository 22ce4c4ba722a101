"""S9: a step of DistributedDataParallel, of a transformer with 50 million parameters, beside Gloo.

How much a faster backend helps depends on how long a step computes. So the number of tokens is chosen, at the start,
such that Gloo waits for 40 % of its step: the part by which it is longer than the same step of
DistributedDataParallel with a hook that sends nothing.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from torch_rmpi.bench import session, timing
from torch_rmpi.bench.operations import Step
from torch_rmpi.bench.progress import Progress
from torch_rmpi.bench.targets.measured import Measured
from torch_rmpi.bench.targets.target import Family, Goal, Scale, Target, microseconds
from torch_rmpi.bench.targets.transformer import Shape, Transformer

_SHAPE = Shape(vocabulary=11_700, width=512, heads=8, layers=12, longest=512)
_QUICK_SHAPE = Shape(vocabulary=256, width=32, heads=2, layers=2, longest=64)
#: `silent` is a step with a hook that sends nothing: what the others' take without waiting. It copies gradients into
#: buckets as they do.
_STEPS = ("rmpi", "gloo", "silent")
#: Of Gloo's step: how much it is to wait; how close the choice has to come; and how far off a step may be that is
#: held against the goal whatever has come of it.
_WAITING, _CLOSE, _BAND = 0.4, 0.02, 0.05
_TRIES = 5
#: How often steps are measured at most.
_ATTEMPTS = 3
#: Each of the two that are compared takes so many turns in a try.
_TRY_ROUNDS = 2
_FIRST_TOKENS = 48
_FEWEST_TOKENS, _MOST_TOKENS = 4, 4096
#: There is another sequence for each so many tokens.
_LENGTH = 256
_GOAL = Goal(1.3, at_least=True)
#: A step takes long, and its time spreads.
_LONGER = 40


def _done(tensor: Tensor) -> torch.futures.Future[Tensor]:
    """A future that has `tensor` already."""
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(tensor)
    return future


class Training:
    """A model trained by each backend, and by each rank for itself."""

    def __init__(self, shape: Shape) -> None:
        torch.manual_seed(0)
        whole = Transformer(shape)
        self.parameters = sum(parameter.numel() for parameter in whole.parameters())
        self._vocabulary = shape.vocabulary
        groups = session.open_groups(["rmpi", "gloo"])
        groups["silent"] = groups["rmpi"]
        self._models = {
            name: DistributedDataParallel(copy.deepcopy(whole), process_group=groups[name]) for name in _STEPS
        }
        self._models["silent"].register_comm_hook(None, lambda state, bucket: _done(bucket.buffer()))
        # The values do not matter, only that they stay finite, though some steps go without the others' gradients.
        self._optimizers = {name: torch.optim.SGD(model.parameters(), lr=1e-4) for name, model in self._models.items()}
        self._random = torch.Generator().manual_seed(dist.get_rank())

    def steps(self, tokens: int) -> dict[str, Step]:
        """A step with each backend; `silent`: the same without any communication."""
        batch = max(1, tokens // _LENGTH)
        length = tokens // batch
        data = torch.randint(self._vocabulary, (batch, length + 1), generator=self._random)
        inputs, targets = data[:, :-1].contiguous(), data[:, 1:].reshape(-1)
        return {name: self._with(name, inputs, targets) for name in self._models}

    def _with(self, name: str, inputs: Tensor, targets: Tensor) -> Step:
        return lambda turn: self._step(name, inputs, targets)

    def _step(self, name: str, inputs: Tensor, targets: Tensor) -> None:
        self._optimizers[name].zero_grad()
        cross_entropy(self._models[name](inputs).flatten(0, 1), targets).backward()
        self._optimizers[name].step()


def _times(steps: dict[str, Step], seconds: float, rounds: int, tick: Callable[[], None]) -> dict[str, float]:
    """Medians in microseconds, the same on every rank."""
    measured = timing.measure(steps, seconds, rounds, tick)
    return {name: statistics.median(runs) / 1e3 for name, runs in measured.items()}


def _waiting(times: Mapping[str, float]) -> float:
    return 1 - times["silent"] / times["gloo"]


def _off(times: Mapping[str, float]) -> float:
    """How far Gloo's share is from what it is to be."""
    return abs(_waiting(times) - _WAITING)


def next_tokens(tokens: int, silent: float, gloo: float) -> int:
    """With how many tokens Gloo should wait for its share of the step, from the times of a step with `tokens`.

    It is as if what is computed grew with the tokens, and what is waited stayed.
    """
    waited = max(0.0, gloo - silent)
    wanted = waited * (1 - _WAITING) / _WAITING
    return max(_FEWEST_TOKENS, min(_MOST_TOKENS, round(tokens * wanted / silent)))


def _calibrate(training: Training, scale: Scale, tick: Callable[[], None]) -> int:
    """The number of tokens, of those that were tried, with which Gloo's share was the closest."""
    tokens = _FIRST_TOKENS
    off: dict[int, float] = {}
    while len(off) < _TRIES and tokens not in off:
        steps = training.steps(tokens)
        del steps["rmpi"]
        times = _times(steps, scale.seconds * _LONGER / 4, _TRY_ROUNDS, tick)
        off[tokens] = _off(times)
        if off[tokens] < _CLOSE:
            break
        tokens = next_tokens(tokens, times["silent"], times["gloo"])
    return min(off, key=lambda tried: off[tried])


def measure(scale: Scale, progress: Progress) -> Measured:
    """Finds the number of tokens, then measures steps with each backend and with none, in turn.

    If Gloo's share has come out too far off, again with another number: the attempt where it was the closest counts,
    whatever rmpi's times are.
    """
    training = Training(_QUICK_SHAPE if scale.quick else _SHAPE)
    tries = _TRIES * 2 * _TRY_ROUNDS
    turns = len(_STEPS) * scale.rounds
    progress.expect(tries + turns)
    progress.text = "length of sequences"
    tokens = _FIRST_TOKENS if scale.quick else _calibrate(training, scale, progress.tick)
    attempts: list[dict[str, float]] = []
    for attempt in range(1 if scale.quick else _ATTEMPTS):
        # It may have taken fewer tries.
        progress.expect(tries + (attempt + 1) * turns)
        progress.done = tries + attempt * turns
        progress.text = f"training, {tokens} tokens"
        longer = 1 if scale.quick else _LONGER
        times = _times(training.steps(tokens), longer * scale.seconds, scale.rounds, progress.tick)
        attempts.append({**times, "tokens": tokens})
        if _off(times) <= _BAND:
            break
        tokens = next_tokens(tokens, times["silent"], times["gloo"])
    best = min(attempts, key=_off)
    return Measured(values={**best, "parameters": training.parameters})


def _detail(measured: Measured) -> str:
    times = ", ".join(f"{name} {microseconds(measured.values[name])}" for name in _STEPS)
    parameters, tokens = measured.values["parameters"] / 1e6, measured.values["tokens"]
    return f"{times}; {parameters:.1f} M parameters, {tokens:.0f} tokens per rank"


def _speedup(measured: Measured) -> float:
    return measured.values["gloo"] / measured.values["rmpi"]


def _unfit(measured: Measured) -> str:
    """With another share the goal is another one; but it counts if it is met with less waiting, or missed with more."""
    is_easier = _waiting(measured.values) > _WAITING
    if _off(measured.values) <= _BAND or is_easier != _GOAL.met(_speedup(measured)):
        return ""
    share = 100 * _waiting(measured.values)
    return f"Gloo waits for {share:.0f} % of its step, not for {100 * _WAITING:.0f} +- {100 * _BAND:.0f} %"


def _shares(measured: Measured) -> str:
    return f"rmpi {100 * (1 - measured.values['silent'] / measured.values['rmpi']):.0f} %"


FAMILY = Family(
    name="training",
    ranks=2,
    measure=measure,
    computes=True,
    targets=(
        Target(
            id="S9",
            what="step of DDP, a transformer of 50 M parameters in float32",
            rival="Gloo",
            goal=_GOAL,
            unit="x",
            value=_speedup,
            detail=_detail,
            unfit=_unfit,
        ),
        Target(
            id="S9",
            what=f"share of Gloo's step that it waits; chosen as {100 * _WAITING:.0f} %",
            rival="-",
            goal=None,
            unit=" %",
            value=lambda measured: 100 * _waiting(measured.values),
            detail=_shares,
        ),
    ),
)
