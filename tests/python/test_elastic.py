"""torch.distributed.elastic around the launcher: when a rank dies, the whole job starts again, and goes on.

torchrun starts no MPI, so its only worker is the launcher, which starts the ranks.
"""

import sys

from processes import launcher
from scripts import run

ELASTIC = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "--no-python"]

# Adds 1 for each rank and step; rank 1 dies once, after a step that has been saved.
TRAINING = """
import os, signal
import torch, torch.distributed as dist

dist.init_process_group("rmpi", init_method="mpi://")
rank = dist.get_rank()
state = {"step": 0, "sum": torch.zeros(1)}
if os.path.exists("state.pt"):
    state = torch.load("state.pt")
print("BEGINS", rank, state["step"], flush=True)
while state["step"] < 4:
    part = torch.ones(1)
    dist.all_reduce(part)
    state = {"step": state["step"] + 1, "sum": state["sum"] + part}
    if rank == 0:
        torch.save(state, "state.new")
        os.replace("state.new", "state.pt")
    dist.barrier()
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and state["step"] == 2 and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
print("ENDS", rank, int(state["sum"]), flush=True)
dist.destroy_process_group()
"""


def test_restart_after_the_death_of_a_rank(tmp_path):
    ended = run(tmp_path, TRAINING, command=[*ELASTIC, "--max-restarts=1", *launcher(2)])
    assert ended.code == 0, ended.output
    begins = ended.printed("BEGINS")
    # Rank 0 waits for rank 1 in the third step, so it has not saved that.
    assert begins == ["0 0", "0 2", "1 0", "1 2"], ended.output
    assert ended.printed("ENDS") == ["0 8", "1 8"], ended.output


def test_no_rank_takes_itself_for_the_world_that_torchrun_describes(tmp_path):
    """torchrun says RANK=0 and WORLD_SIZE=1 of the launcher: with these, env:// would make each rank a world."""
    ended = run(
        tmp_path,
        """
        import os
        import torch.distributed as dist

        try:
            dist.init_process_group("rmpi", init_method="env://")
        except ValueError as error:
            print("REFUSED", "RANK" in str(error), flush=True)
        print("LOCAL", os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"], flush=True)
        dist.init_process_group("rmpi", init_method="mpi://")
        print("WORLD", dist.get_rank(), dist.get_world_size(), flush=True)
        dist.destroy_process_group()
        """,
        command=[*ELASTIC, *launcher(2)],
    )
    assert ended.code == 0, ended.output
    assert ended.printed("REFUSED") == ["True", "True"], ended.output
    assert ended.printed("LOCAL") == ["0 2", "1 2"], ended.output
    assert ended.printed("WORLD") == ["0 2", "1 2"], ended.output
