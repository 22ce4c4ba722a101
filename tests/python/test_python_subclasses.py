"""Subclasses of ProcessGroup and Work in Python, around this backend: DDP over them trains as one process does."""

from pathlib import Path

import torch
import torch.distributed as dist
from multirank import multirank
from scripts import run_well
from torch.nn.parallel import DistributedDataParallel
from training import RATE, STEPS, loss_of, model, train_alone

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/python/compression/train.py"


class Delegating(dist.Work):
    """The work of another group's operation; `finish` gets its result when it is done."""

    def __init__(self, work, finish=lambda result: result):
        super().__init__()
        self._future = work.get_future().then(lambda future: finish(future.value()))

    def wait(self, timeout=None):
        self._future.wait()
        return True

    def get_future(self):
        return self._future


class Counting(dist.ProcessGroup):
    """Hands everything to another group, and counts what it has handed on."""

    def __init__(self, inner):
        super().__init__(inner.rank(), inner.size())
        self._inner = inner
        self._name = None
        self.calls = {}

    # torch keeps the name in the group's backends, of which this one has none.
    def _set_group_name(self, name):
        self._name = name

    @property
    def group_name(self):
        return self._name

    def _count(self, name):
        self.calls[name] = self.calls.get(name, 0) + 1

    def getBackendName(self):
        return "counting"

    def allreduce(self, tensors, options):
        self._count("allreduce")
        return Delegating(self._inner.allreduce(tensors, options))

    def broadcast(self, tensors, options):
        self._count("broadcast")
        return Delegating(self._inner.broadcast(tensors, options))

    def allgather(self, outputs, inputs, options):
        self._count("allgather")
        return Delegating(self._inner.allgather(outputs, inputs, options))


class Compressing(Counting):
    """Sends bfloat16 in place of float32, and gives back float32."""

    def allreduce(self, tensors, options):
        self._count("allreduce")
        (tensor,) = tensors
        wire = tensor.to(torch.bfloat16)

        def widen(result):
            tensor.copy_(wire)
            return [tensor]

        return Delegating(self._inner.allreduce([wire], options), widen)


def compress_hook(group, bucket):
    """As torch's bf16_compress_hook, by the group's own methods."""
    wire = bucket.buffer().to(torch.bfloat16).div_(group.size())
    options = dist.AllreduceOptions()
    return group.allreduce([wire], options).get_future().then(lambda future: bucket.buffer().copy_(future.value()[0]))


def assert_trains_as_one_process(ctx, network, tolerance):
    optimizer = torch.optim.SGD(network.parameters(), RATE)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(network, step, ctx.rank).backward()
        optimizer.step()
    ctx.same([parameter.tolist() for parameter in network.parameters()])
    for actual, expected in zip(network.parameters(), train_alone(ctx.size), strict=True):
        torch.testing.assert_close(actual.detach(), expected, rtol=tolerance, atol=tolerance)


def group_of(ctx, kind):
    """A group that a backend of this name has made, as torch makes groups."""
    name = kind.__name__.lower()
    if name not in dist.Backend.backend_list:
        dist.Backend.register_backend(name, lambda *_: kind(dist.group.WORLD), devices="cpu")
    group = ctx.new_group(backend=name)
    assert type(group) is kind
    return group


def wrap(ctx, group):
    return DistributedDataParallel(model(seed=ctx.rank), process_group=group, bucket_cap_mb=0.0001)


@multirank(2, 4)
def test_ddp(ctx):
    group = group_of(ctx, Counting)
    assert_trains_as_one_process(ctx, wrap(ctx, group), 1e-6)
    # One bucket in the first step, and three in each other one.
    assert group.calls["allreduce"] == 1 + 3 * (STEPS - 1)


@multirank(2, 4)
def test_ddp_on_a_group_that_compresses(ctx):
    assert_trains_as_one_process(ctx, wrap(ctx, group_of(ctx, Compressing)), 0.02)


@multirank(2, 4)
def test_ddp_with_a_hook_that_compresses(ctx):
    group = group_of(ctx, Counting)
    network = wrap(ctx, group)
    network.register_comm_hook(group, compress_hook)
    assert_trains_as_one_process(ctx, network, 0.02)


@multirank(2, 4)
def test_collectives(ctx):
    """torch.distributed's functions reach the methods of a subclass, and hand out its works."""
    group = group_of(ctx, Counting)
    tensor = torch.tensor([float(ctx.rank)])
    dist.all_reduce(tensor, group=group)
    assert tensor.item() == sum(range(ctx.size))
    work = dist.broadcast(tensor.fill_(ctx.rank), 1, group=group, async_op=True)
    work.wait()
    assert tensor.item() == 1
    outputs = [torch.empty(1) for _ in range(ctx.size)]
    dist.all_gather(outputs, torch.tensor([float(ctx.rank)]), group=group)
    assert [output.item() for output in outputs] == list(range(ctx.size))
    assert group.calls == {"allreduce": 1, "broadcast": 1, "allgather": 1}


def test_the_example_trains(tmp_path):
    """examples/python/compression: its loss falls over a group that compresses."""
    ended = run_well(tmp_path, EXAMPLE.read_text())
    losses = [float(line.split()[-1]) for line in ended.printed("step")]
    assert len(losses) == 6
    assert losses[0] > 1
    assert losses[-1] < 1e-3
