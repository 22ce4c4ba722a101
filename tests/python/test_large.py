"""More elements, and more bytes, than 31 bits can count. Only with RMPI_TEST_LARGE=1: it takes 10 GiB of memory."""

import os

import torch
import torch.distributed as dist
from multirank import multirank

ELEMENTS = (1 << 31) + 9


def pattern():
    return torch.arange(251, dtype=torch.uint8).repeat(ELEMENTS // 251 + 1)[:ELEMENTS]


def broadcast(ctx):
    tensor = pattern() if ctx.rank == 0 else torch.zeros(ELEMENTS, dtype=torch.uint8)
    dist.broadcast(tensor, 0, group=ctx.group)
    assert torch.equal(tensor, pattern())


def messages(ctx):
    if ctx.rank == 0:
        dist.send(pattern(), 1, group=ctx.group)
    else:
        tensor = torch.zeros(ELEMENTS, dtype=torch.uint8)
        dist.recv(tensor, 0, group=ctx.group)
        assert torch.equal(tensor, pattern())


def all_reduce(ctx):
    tensor = torch.full((ELEMENTS,), ctx.rank + 1, dtype=torch.uint8)
    dist.all_reduce(tensor, group=ctx.group)
    assert (tensor == 3).all()


if os.environ.get("RMPI_TEST_LARGE") == "1":
    test_broadcast = multirank(2, limit=300)(broadcast)
    test_messages = multirank(2, limit=300)(messages)
    test_all_reduce = multirank(2, limit=300)(all_reduce)
