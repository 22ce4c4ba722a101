"""Trains over a process group written in Python, which sends gradients as bfloat16 and gives them back as float32.

    python -m torch_rmpi.run -n 2 examples/python/compression/train.py

A subclass of ProcessGroup hands operations to a group of torch-rmpi, and a subclass of Work is what its callers hold.
Messages of half the size save time where the network is slow; on one node they rarely do.
"""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


class Widening(dist.Work):
    """The work of an operation on `wire`, a copy of `tensor` in bfloat16: when it is done, `tensor` has the result."""

    def __init__(self, work, wire, tensor):
        super().__init__()
        self._future = work.get_future().then(lambda _: [tensor.copy_(wire)])

    def wait(self, timeout=None):
        self._future.wait()
        return True

    def get_future(self):
        return self._future


class CompressingGroup(dist.ProcessGroup):
    """The ranks of another group; float32 travels as bfloat16 in `allreduce`."""

    def __init__(self, inner):
        super().__init__(inner.rank(), inner.size())
        self._inner = inner
        self._name = None

    # torch asks a group of this kind itself for its name.
    def _set_group_name(self, name):
        self._name = name

    @property
    def group_name(self):
        return self._name

    def getBackendName(self):
        return "compressing"

    def allreduce(self, tensors, options):
        (tensor,) = tensors
        if tensor.dtype != torch.float32:
            return self._inner.allreduce(tensors, options)
        wire = tensor.to(torch.bfloat16)
        return Widening(self._inner.allreduce([wire], options), wire, tensor)

    def broadcast(self, tensors, options):
        return self._inner.broadcast(tensors, options)

    def allgather(self, outputs, inputs, options):
        return self._inner.allgather(outputs, inputs, options)


def main():
    dist.init_process_group("rmpi", init_method="mpi://")
    dist.Backend.register_backend("compressing", lambda *_: CompressingGroup(dist.group.WORLD), devices="cpu")
    group = dist.new_group(backend="compressing")

    torch.manual_seed(0)
    truth = torch.randn(20, 1)
    network = DistributedDataParallel(torch.nn.Linear(20, 1), process_group=group)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    generator = torch.Generator().manual_seed(dist.get_rank())
    for step in range(101):
        inputs = torch.randn(64, 20, generator=generator)
        loss = torch.nn.functional.mse_loss(network(inputs), inputs @ truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if dist.get_rank() == 0 and step % 20 == 0:
            print(f"step {step:3}: loss {loss.item():.6f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
