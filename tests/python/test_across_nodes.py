"""The operations once more, with each rank alone on its node: everything goes over MPI."""

import os
import sys
from pathlib import Path

import pytest
from processes import BACKEND, Job
from scripts import end, run

HERE = Path(__file__).resolve().parent
LIMIT = 400.0 * float(os.environ.get("RMPI_TEST_PATIENCE", "1"))
OPERATIONS = (
    "all_gather",
    "all_reduce",
    "all_to_all",
    "barrier",
    "broadcast",
    "coalesced",
    "gather",
    "groups",
    "mismatch",
    "reduce",
    "reduce_scatter",
    "scatter",
    "send_recv",
    "threads",
    "timeouts",
)

pytestmark = pytest.mark.skipif(BACKEND != "rmpi", reason="about nodes as rmpi sees them")


def test_operations_where_no_two_ranks_share_memory(tmp_path):
    files = [str(HERE / f"test_{name}.py") for name in OPERATIONS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    job = Job([(command, {"RMPI_TEST_NODES": "separate", "RMPI_TEST_RANKS": "2,3,4"})], tmp_path / "output.log")
    ended = end(job, limit=LIMIT)
    assert ended.code == 0, ended.output[-8000:]
    assert " passed" in ended.output


@pytest.mark.parametrize("separate", [False, True])
def test_the_variable_separates_ranks(tmp_path, separate):
    source = f"""
    import os
    if {separate}:
        os.environ["TORCH_RMPI_NODE"] = str(os.getpid())
    import torch, torch.distributed as dist
    dist.init_process_group("rmpi", init_method="mpi://")
    tensor = torch.ones(3)
    dist.all_reduce(tensor)
    assert tensor[0] == dist.get_world_size()
    dist.destroy_process_group()
    """
    ended = run(tmp_path, source, env={"TORCH_RMPI_LOG": "info"})
    assert ended.code == 0, ended.output
    groups = [line for line in ended.output.splitlines() if 'group "0": rank' in line]
    assert len(groups) == 2, ended.output
    assert all(("shared memory" in line) != separate for line in groups), groups
