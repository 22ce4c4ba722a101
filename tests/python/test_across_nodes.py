"""The collectives once more, with each rank alone on its node: everything goes over MPI."""

import subprocess
import sys
from pathlib import Path

import pytest
from processes import BACKEND, environment

HERE = Path(__file__).resolve().parent
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


@pytest.mark.skipif(BACKEND != "rmpi", reason="about nodes as rmpi sees them")
def test_operations_where_no_two_ranks_share_memory():
    files = [str(HERE / f"test_{name}.py") for name in OPERATIONS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    ended = subprocess.run(
        command,
        env=environment(RMPI_TEST_NODES="separate", RMPI_TEST_RANKS="3,4"),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    assert " passed" in ended.stdout
