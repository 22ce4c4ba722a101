"""Ranks that copy straight from each other's memory: where they may, where the system forbids it, and when it begins to
forbid it in the middle of a run."""

import sys
from pathlib import Path

import pytest
from processes import BACKEND, Job
from scripts import LIMIT, end, run

HERE = Path(__file__).resolve().parent

pytestmark = pytest.mark.skipif(BACKEND != "rmpi", reason="about how rmpi copies")

FORBID = """
import ctypes, platform, struct

def forbid_reading_memory():
    # A seccomp filter (seccomp(2)): process_vm_readv fails with EPERM in this process, for ever.
    number = {"x86_64": 310, "aarch64": 270}[platform.machine()]
    instructions = [
        (0x20, 0, 0, 0),              # load the number of the system call
        (0x15, 0, 1, number),         # that one?
        (0x06, 0, 0, 0x00050000 | 1), # fail with EPERM
        (0x06, 0, 0, 0x7FFF0000),     # allow
    ]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0   # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()   # PR_SET_SECCOMP
"""

MOVE = """
import os, sys
import torch, torch.distributed as dist

def move_everything(salt):
    rank, size, n = dist.get_rank(), dist.get_world_size(), 1_000_003
    values = lambda of: torch.arange(n, dtype=torch.int32) * (of + 3) + salt
    gathered = [torch.zeros(n, dtype=torch.int32) for _ in range(size)]
    dist.all_gather(gathered, values(rank))
    assert all(torch.equal(got, values(of)) for of, got in enumerate(gathered))
    for root in range(size):
        tensor = values(rank)
        dist.broadcast(tensor, root)
        assert torch.equal(tensor, values(root))
        output = torch.zeros(n, dtype=torch.int32)
        dist.scatter(output, [values(root + to) for to in range(size)] if rank == root else None, root)
        assert torch.equal(output, values(root + rank))
        dist.gather(values(rank), gathered if rank == root else None, root)
        assert all(torch.equal(got, values(of)) for of, got in enumerate(gathered))
    outputs = [torch.zeros(n + rank, dtype=torch.int32) for _ in range(size)]
    dist.all_to_all(outputs, [torch.cat([values(rank), torch.full((to,), rank)]).int() for to in range(size)])
    sent = [torch.cat([values(of), torch.full((rank,), of)]).int() for of in range(size)]
    assert all(torch.equal(got, expected) for got, expected in zip(outputs, sent, strict=True))
"""


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("forbidden", ["nowhere", "from the start", "halfway"])
def test_every_operation_that_moves_data(tmp_path, ranks, forbidden):
    source = f"""
{FORBID}
{MOVE}
variable = "OMPI_COMM_WORLD_RANK" if "OMPI_COMM_WORLD_RANK" in os.environ else "PMI_RANK"
forbidden, here = {forbidden!r}, os.environ[variable] == "1"
if forbidden == "from the start" and here:
    forbid_reading_memory()
dist.init_process_group("rmpi", init_method="mpi://")
move_everything(1)
if forbidden == "halfway" and here:
    forbid_reading_memory()
for salt in range(2, 4):
    move_everything(salt)
dist.destroy_process_group()
"""
    ended = run(tmp_path, source, ranks=ranks, env={"TORCH_RMPI_SINGLE_COPY": "always", "TORCH_RMPI_LOG": "debug"})
    assert ended.code == 0, ended.output
    assert ("is not used: " in ended.output) == (forbidden == "from the start"), ended.output
    assert ("it is not used any more" in ended.output) == (forbidden == "halfway"), ended.output


@pytest.mark.parametrize("when", ["auto", "never"])
def test_the_variable_chooses(tmp_path, when):
    source = f"""
{MOVE}
dist.init_process_group("rmpi", init_method="mpi://")
move_everything(1)
dist.destroy_process_group()
"""
    ended = run(tmp_path, source, env={"TORCH_RMPI_SINGLE_COPY": when, "TORCH_RMPI_LOG": "info"})
    assert ended.code == 0, ended.output
    # Only where nobody has decided, both ways are tried.
    assert ("1 MiB from a peer takes" in ended.output) == (when == "auto"), ended.output


@pytest.mark.parametrize("when", ["always", "never"])
def test_operations_once_more(tmp_path, when):
    """What moves, and calls that do not fit each other."""
    files = [str(HERE / f"test_{name}.py") for name in ("long_moves", "disagreement")]
    chosen = ["-k", "np3", "-q", "-p", "no:cacheprovider"]
    job = Job(
        [([sys.executable, "-m", "pytest", *chosen, *files], {"RMPI_TEST_RANKS": "3"})],
        tmp_path / "output.log",
        TORCH_RMPI_SINGLE_COPY=when,
    )
    ended = end(job, limit=LIMIT * 3)
    assert ended.code == 0, ended.output[-8000:]
    assert " passed" in ended.output
