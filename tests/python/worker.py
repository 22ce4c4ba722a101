"""What each rank of a launch runs: the tests of the plan, one after another. See launches.py for the other end.

A rank writes one JSON line for each thing that happens to `rank<R>.jsonl` in the folder of the launch: `ready`, `start`
and `end` of each test, `bye`. After each test the ranks tell each other through the Store of the pytest process that
they have ended it; nobody begins the next one before.
"""

import faulthandler
import importlib
import json
import os
import signal
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from multirank import Context

HERE = Path(__file__).resolve().parent
# In which launchers say which rank of MPI_COMM_WORLD a process is.
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")


def describe(error):
    """The traceback, and the local variables of the innermost frame that belongs to a test."""
    lines = traceback.format_exception(error)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = [frame for frame in frames if Path(frame.f_code.co_filename).parent == HERE and "ctx" in frame.f_locals]
    if ours:
        lines.append("where\n")
        for name, value in ours[-1].f_locals.items():
            text = repr(value)
            lines.append(f"  {name} = {text[:300]}{'...' if len(text) > 300 else ''}\n")
    return "".join(lines)


def start_backend(plan, store):
    """Initialises the default group; returns (rank, size)."""
    timeout = timedelta(seconds=60)
    if plan["backend"] == "rmpi":
        nodes = os.environ.get("RMPI_TEST_NODES")
        if nodes == "separate":
            # No two ranks share memory, so that everything goes over MPI.
            os.environ["TORCH_RMPI_NODE"] = f"node of process {os.getpid()}"
        elif nodes is not None:
            rank = next(os.environ[name] for name in RANK_VARIABLES if name in os.environ)
            os.environ["TORCH_RMPI_NODE"] = f"node {nodes[int(rank)]}"
        dist.init_process_group("rmpi", init_method="mpi://", timeout=timeout)
    else:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        under = dist.PrefixStore("backend", store)
        dist.init_process_group(plan["backend"], store=under, rank=rank, world_size=size, timeout=timeout)
    return dist.get_rank(), dist.get_world_size()


class Worker:
    """One rank of a launch."""

    def __init__(self, folder):
        self.folder = folder
        self.plan = json.loads((folder / "plan.json").read_text())
        sys.path[:0] = self.plan["paths"]
        host, port = self.plan["store"]
        server = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=self.plan["store_timeout"]))
        self.store = dist.PrefixStore(self.plan["mark"], server)
        self.rank, self.size = start_backend(self.plan, self.store)
        self.events = (folder / f"rank{self.rank}.jsonl").open("a", buffering=1)
        # Kept open for the whole run: the handler writes to its descriptor.
        self.stacks = (folder / f"rank{self.rank}.stacks").open("w")
        faulthandler.register(signal.SIGUSR1, file=self.stacks, all_threads=True)
        self.report("ready", pid=os.getpid(), size=self.size)

    def report(self, event, **fields):
        self.events.write(json.dumps({"event": event, "time": time.monotonic(), **fields}) + "\n")

    def run_test(self, index, test):
        """Runs one test, as often as asked; returns the description of its error, or None."""
        for repetition in range(self.plan["repeat"]):
            store = dist.PrefixStore(f"test/{index}/{repetition}", self.store)
            torch.manual_seed(1234 + self.rank)
            try:
                function = getattr(importlib.import_module(test["module"]), test["function"])
                ctx = Context(store, self.rank, self.size, self.plan["backend"])
                function(ctx)
                ctx.close()
            except BaseException as error:
                # Also SystemExit and KeyboardInterrupt: a test that leaves must not look like one that passed.
                return describe(error) + (f"(in repetition {repetition + 1})\n" if repetition else "")
        return None

    def all_ended(self, index):
        """Waits until every rank has ended the test."""
        self.store.set(f"ended/{index}/{self.rank}", "1")
        self.store.wait([f"ended/{index}/{rank}" for rank in range(self.size)])

    def run(self):
        for index, test in enumerate(self.plan["tests"]):
            self.report("start", index=index)
            error = self.run_test(index, test)
            self.report("end", index=index, error=error)
            self.all_ended(index)
        dist.destroy_process_group()
        self.report("bye")


if __name__ == "__main__":
    where = Path(sys.argv[1])
    try:
        worker = Worker(where)
    except BaseException:
        # The rank may not be known yet, so the file is named by the process.
        (where / f"startup-{os.getpid()}.error").write_text(traceback.format_exc())
        raise
    worker.run()
