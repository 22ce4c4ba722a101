"""The backends side by side: one process group each, of the same ranks."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

#: What can be measured. `mpi` is PyTorch's own, where it was built in.
NAMES = ("rmpi", "gloo", "mpi", "ucc", "noop", "memcpy")
#: What torch's FakeProcessGroup, which is `noop`, really does not do.
_NOTHING = ("all_reduce", "all_reduce_max", "broadcast", "reduce", "barrier", "sendrecv")
#: Where all that it does is one copy from input to output: with empty tensors what is left is torch's own.
_COPIED = ("all_to_all",)


def offers(name: str, op: str) -> bool:
    """Whether what is measured of the operation says anything about the backend."""
    return name != "noop" or op in _NOTHING or op in _COPIED


def size(name: str, op: str, asked: int) -> int:
    """The bytes of the tensors that stand for `asked`."""
    return 0 if name == "noop" and op in _COPIED else asked


class Unavailable(Exception):
    """This torch does not have the backend."""


def _register_noop() -> None:
    # A plugin under a name of its own, so that torch does for it what it does for any backend.
    if hasattr(dist.Backend, "NOOP"):
        return
    from torch._C._distributed_c10d import FakeProcessGroup

    def create(common: Any, options: object) -> Any:
        del options
        return FakeProcessGroup._create_internal(common.group_rank, common.group_size)

    dist.Backend.register_backend("noop", create, extended_api=True, devices=["cpu"])


def create(name: str) -> dist.ProcessGroup:
    """The group of all ranks over a backend; all ranks call it. Raises Unavailable if this torch lacks it."""
    if name == "rmpi":
        world = dist.group.WORLD
        assert world is not None
        return world
    if name == "noop":
        _register_noop()
    elif (name == "mpi" and not dist.is_mpi_available()) or (name == "ucc" and not dist.is_ucc_available()):
        raise Unavailable(f"this torch was built without {name}")
    group = dist.new_group(backend=name)
    assert isinstance(group, dist.ProcessGroup)
    return group
