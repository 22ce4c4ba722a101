"""Ranks that disagree about a size get an error, and no memory but the tensor's is written."""

import pytest
import torch
import torch.distributed as dist
from multirank import multirank


@multirank(2)
def test_a_message_longer_than_its_tensor(ctx):
    for count in (5, 2_000, 200_000):
        group = dist.new_group()
        guarded = [torch.zeros(64) for _ in range(200)]
        if ctx.rank == 0:
            dist.send(torch.ones(count), 1, group=group)
        else:
            with pytest.raises(
                dist.DistBackendError, match=f"rank 0 sent {4 * count} bytes where 12 bytes were expected"
            ):
                dist.recv(torch.zeros(3), 0, group=group)
        assert all((tensor == 0).all() for tensor in guarded)
        dist.destroy_process_group(group)


@multirank(2)
def test_a_message_shorter_than_its_tensor(ctx):
    group = dist.new_group()
    if ctx.rank == 0:
        dist.send(torch.ones(2), 1, group=group)
    else:
        with pytest.raises(dist.DistBackendError, match="rank 0 sent 8 bytes where 40 bytes were expected"):
            dist.recv(torch.zeros(10), 0, group=group)
    dist.destroy_process_group(group)
