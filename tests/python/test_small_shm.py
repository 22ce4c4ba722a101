"""/dev/shm that is small, as in containers, or that nobody may write to: what ranks share does not lie there."""

import sys
from pathlib import Path

import pytest
from other_shm import UNAVAILABLE
from processes import BACKEND, Job, launcher
from scripts import LIMIT, end, run

pytestmark = pytest.mark.skipif(BACKEND != "rmpi", reason="about the memory that rmpi shares")

HERE = Path(__file__).resolve().parent

SOURCE = """
import os
import torch, torch.distributed as dist

shm = os.statvfs("/dev/shm")
assert shm.f_flag & os.ST_RDONLY or shm.f_blocks * shm.f_frsize == 64 << 20, "/dev/shm is as ever"
dist.init_process_group("rmpi", init_method="mpi://")
rank, size = dist.get_rank(), dist.get_world_size()
count = 16 << 20   # 64 MiB
tensor = torch.full((count,), rank + 1.0)
dist.all_reduce(tensor)
assert (tensor == size * (size + 1) / 2).all()
tensor.fill_(rank)
dist.broadcast(tensor, 2)
assert (tensor == 2).all()
part = torch.full((count // size,), float(rank))
dist.all_gather_into_tensor(tensor, part)
assert all((block == of).all() for of, block in enumerate(tensor.split(count // size)))
output = torch.empty_like(tensor)
dist.all_to_all_single(output, tensor)
assert (output == rank).all()
sending = dist.isend(tensor, (rank + 1) % size)
dist.recv(output, (rank - 1) % size)
sending.wait()
assert torch.equal(output, tensor)
# Several groups at once, each with memory of its own.
groups = [dist.new_group() for _ in range(4)]
works = [dist.all_reduce(torch.ones(1 << 20), group=group, async_op=True) for group in groups]
for work in works:
    work.wait()
dist.barrier()
print("WELL", flush=True)
dist.destroy_process_group()
"""


# The MPI alone: nothing of rmpi, nor of torch.
ONLY_MPI = """
import ctypes, sys

mpi = ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
assert mpi.MPI_Init(None, None) == 0
assert mpi.MPI_Finalize() == 0
"""


def library_of_mpi():
    from torch_rmpi import _C

    assert "MPI" in _C.mpi_library_version()
    files = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    return next(file for file in files if Path(file).name.startswith("libmpi.so"))


@pytest.mark.parametrize("options", ["size=64m", "ro"])
def test_large_tensors(tmp_path, options):
    command = [sys.executable, str(HERE / "other_shm.py"), options, *launcher(4)]
    alone = tmp_path / "alone.py"
    alone.write_text(ONLY_MPI)
    tried = end(Job([([*command, str(alone), library_of_mpi()], {})], tmp_path / "alone.log"), LIMIT)
    if tried.code == UNAVAILABLE and tried.printed("UNAVAILABLE"):
        pytest.skip(f"unavailable: this machine lets nobody mount anything: {tried.printed('UNAVAILABLE')[0]}")
    if tried.code != 0 and options == "ro":
        pytest.skip("unavailable: this MPI itself does not start where nobody can write to /dev/shm")
    assert tried.code == 0, tried.output
    ended = run(tmp_path, SOURCE, command=command, env={"TORCH_RMPI_LOG": "info"}, limit=3 * LIMIT)
    assert ended.code == 0, ended.output
    assert len(ended.printed("WELL")) == 4, ended.output
    # It was not given up for messages.
    assert ended.output.count("of 4 over shared memory") >= 4, ended.output
