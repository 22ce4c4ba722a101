"""How a job ends: in order, without destroying, by an exception, by sys.exit; and what it must get along with."""

import pytest
from scripts import end, run, run_well, start

INIT = """
import os, sys, signal, time
import torch, torch.distributed as dist
dist.init_process_group('rmpi', init_method='mpi://')
rank, size = dist.get_rank(), dist.get_world_size()
def total(group=None):
    tensor = torch.ones(10)
    dist.all_reduce(tensor, group=group)
    return tensor[0].item()
assert total() == size
"""


def test_destroy_and_init_again(tmp_path):
    source = """
import torch, torch.distributed as dist
for turn in range(20):
    dist.init_process_group('rmpi', init_method='mpi://')
    tensor = torch.full((100,), float(turn))
    dist.all_reduce(tensor)
    assert tensor[0] == turn * dist.get_world_size()
    group = dist.new_group([0, 1])
    if dist.get_rank() < 2:
        dist.barrier(group)
    dist.destroy_process_group()
    assert not dist.is_initialized()
print("TURNS", turn + 1, flush=True)
"""
    assert run_well(tmp_path, source, ranks=3).printed("TURNS") == ["20"] * 3


def test_forgets_to_destroy(tmp_path):
    run_well(tmp_path, INIT + "group = dist.new_group([0, 1])\ntotal(group)\n")


def test_forgets_to_destroy_with_work_in_flight(tmp_path):
    """An asynchronous operation that every rank has issued, and a receive that nobody will ever match."""
    source = "work = dist.all_reduce(torch.ones(1000), async_op=True)\nlost = dist.irecv(torch.ones(1), 1 - rank)\n"
    ended = run(tmp_path, INIT + source)
    assert ended.code == 0, ended.output
    assert "Traceback" not in ended.output


def test_exit_0_everywhere_without_destroying(tmp_path):
    run_well(tmp_path, INIT + "sys.exit(0)\n")


@pytest.mark.parametrize("failing", [0, 1])
def test_an_exception_on_one_rank(tmp_path, failing):
    """The others wait for it in a collective that it never joins; the job ends, and says why."""
    source = f"if rank == {failing}:\n    raise ValueError('this rank is broken')\ntotal()\n"
    ended = run(tmp_path, INIT + source, ranks=3)
    assert ended.code != 0
    assert "ValueError: this rank is broken" in ended.output, ended.output


@pytest.mark.parametrize("failing", [0, 1])
def test_exit_code_of_one_rank(tmp_path, failing):
    ended = run(tmp_path, INIT + f"if rank == {failing}:\n    sys.exit(3)\ntotal()\n")
    assert ended.code == 3, ended.output


def test_exit_code_of_all_ranks(tmp_path):
    assert run(tmp_path, INIT + "dist.destroy_process_group()\nsys.exit(5)\n").code == 5


def test_exception_after_destroying(tmp_path):
    ended = run(tmp_path, INIT + "dist.destroy_process_group()\nassert rank, 'rank 0 failed late'\n")
    assert ended.code != 0
    assert "rank 0 failed late" in ended.output


def test_a_rank_that_is_killed(tmp_path):
    """Under a launcher that ends the job with its first dead rank."""
    ended = run(tmp_path, INIT + "if rank == 1:\n    os.kill(os.getpid(), signal.SIGKILL)\ntotal()\n")
    assert ended.code != 0


def test_rank_0_leaves_first(tmp_path):
    """The others go on using their groups, their Store, and even make a new group, after rank 0 has returned."""
    source = """
import datetime
side = dist.new_group([1, 2])
everybody = dist.new_group([0, 1, 2])
total(everybody)
if rank == 0:
    open('left', 'w').close()
    sys.exit(0)
while not os.path.exists('left'):
    pass
store = dist.distributed_c10d._get_default_store()
store.set(f'mine {rank}', 'x')
store.wait([f'mine {3 - rank}'], datetime.timedelta(seconds=20))
for _ in range(100):
    assert total(side) == 2
again = dist.new_group([1, 2], use_local_synchronization=True)
assert total(again) == 2
print("WORKED", flush=True)
"""
    assert run_well(tmp_path, INIT + source, ranks=3).printed("WORKED") == [""] * 2


@pytest.mark.parametrize("operation", ["dist.recv(torch.ones(1), 1 - rank)", "dist.barrier(group)", "work.wait()"])
def test_interrupt(tmp_path, operation):
    """SIGINT ends a wait that nothing else would end, within a second, by KeyboardInterrupt."""
    source = f"""
import threading
group = dist.new_group([0, 1])
here = max(number for number, line in enumerate(open(__file__), 1) if 'THE WAIT' in line)

def announce():
    # Another thread, so that it also shows that the wait lets Python run.
    while True:
        frame = sys._current_frames()[threading.main_thread().ident]
        while frame.f_back:
            frame = frame.f_back
        if frame.f_lineno == here:
            break
    open('waiting.part', 'w').write(str(os.getpid()))
    os.rename('waiting.part', 'waiting')

if rank == 0:
    work = dist.irecv(torch.ones(1), 1, tag=5)
    threading.Thread(target=announce, daemon=True).start()
    try:
        {operation} # THE WAIT
    except KeyboardInterrupt:
        print("INTERRUPTED", time.monotonic(), flush=True)
    open('done', 'w').close()
else:
    while not os.path.exists('waiting'):
        pass
    print("SENT", time.monotonic(), flush=True)
    os.kill(int(open('waiting').read()), signal.SIGINT)
    while not os.path.exists('done'):
        pass
os._exit(0)
"""
    ended = run(tmp_path, INIT + source, limit=40)
    (sent,), (interrupted,) = ended.printed("SENT"), ended.printed("INTERRUPTED")
    assert float(interrupted) - float(sent) < 1.0, ended.output


def test_interrupt_reaches_a_rank_that_is_not_in_a_wait_of_ours(tmp_path):
    """Python's own handling of SIGINT is left as it was."""
    source = """
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
except KeyboardInterrupt:
    print("INTERRUPTED", flush=True)
dist.destroy_process_group()
"""
    ended = run(tmp_path, INIT + source)
    assert ended.code == 0, ended.output
    assert len(ended.printed("INTERRUPTED")) == 2


def test_mpi4py_before(tmp_path):
    """mpi4py has initialised MPI: it is used, and not finalized under mpi4py's feet."""
    source = """
from mpi4py import MPI
comm = MPI.COMM_WORLD
assert comm.allreduce(1) == 2
"""
    after = """
dist.destroy_process_group()
assert not MPI.Is_finalized()
assert comm.allreduce(comm.rank) == 1
print("WORKED", flush=True)
"""
    assert run_well(tmp_path, source + INIT + after).printed("WORKED") == [""] * 2


def test_mpi4py_after(tmp_path):
    source = """
from mpi4py import MPI
comm = MPI.COMM_WORLD
assert (comm.rank, comm.size) == (rank, size)
for _ in range(20):
    assert comm.allreduce(1) == 2
    assert total() == 2
dist.destroy_process_group()
assert comm.allreduce(1) == 2
print("WORKED", flush=True)
"""
    assert run_well(tmp_path, INIT + source).printed("WORKED") == [""] * 2


def test_mpi4py_with_too_little_thread_support(tmp_path):
    """Refused, with what to write there."""
    source = "import mpi4py\nmpi4py.rc.threads = False\nfrom mpi4py import MPI\n"
    ended = run(tmp_path, source + INIT)
    if ended.code != 0:
        assert "mpi4py.rc" in ended.output or "MPI_THREAD" in ended.output, ended.output


def test_data_loader_with_forked_workers(tmp_path):
    """Workers are forked while groups live and operations run; they end without touching MPI."""
    source = """
from torch.utils.data import DataLoader, TensorDataset
from torch.nn.parallel import DistributedDataParallel
data = TensorDataset(torch.randn(64, 8), torch.randn(64, 1))
network = DistributedDataParallel(torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(network.parameters(), 0.01)
for epoch in range(3):
    for inputs, targets in DataLoader(data, batch_size=8, num_workers=2, multiprocessing_context='fork'):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(inputs), targets).backward()
        optimizer.step()
total()
dist.destroy_process_group()
print("WORKED", flush=True)
"""
    assert run_well(tmp_path, INIT + source).printed("WORKED") == [""] * 2


def test_a_forked_child_that_uses_the_group(tmp_path):
    """It gets an error instead of disturbing its parent's MPI, and its exit harms nobody."""
    source = """
child = os.fork()
if child == 0:
    try:
        total()
    except BaseException as error:
        print("CHILD", type(error).__name__, flush=True)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert total() == size
dist.destroy_process_group()
"""
    ended = run(tmp_path, INIT + source)
    assert ended.code == 0, ended.output
    assert len(ended.printed("CHILD")) == 2, ended.output


def test_subprocesses(tmp_path):
    source = """
import subprocess
assert subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True, text=True).stdout == '1\\n'
total()
dist.destroy_process_group()
"""
    run_well(tmp_path, INIT + source)


def test_groups_leak_nothing(tmp_path, record_property):
    """200 groups created, used and destroyed: no file descriptor, thread, mapping or memory is left of them."""
    source = """
import gc, resource
def state():
    gc.collect()
    status = dict(line.split(':', 1) for line in open('/proc/self/status') if line.startswith(('VmRSS', 'Threads')))
    return [len(os.listdir('/proc/self/fd')), int(status['Threads']), int(status['VmRSS'].split()[0]),
            len(open('/proc/self/maps').readlines())]
def turn():
    group = dist.new_group([0, 1])
    tensor = torch.ones(5000)
    dist.all_reduce(tensor, group=group)
    assert tensor[0] == 2
    dist.destroy_process_group(group)
for _ in range(20):
    turn()
before = state()
for _ in range(200):
    turn()
after = state()
dist.destroy_process_group()
print("STATE", *before, *after, flush=True)
"""
    ended = run_well(tmp_path, INIT + source, limit=120)
    lines = [[int(word) for word in line.split()] for line in ended.printed("STATE")]
    assert len(lines) == 2
    for line in lines:
        before, after = line[:4], line[4:]
        print("descriptors, threads, resident KiB, mappings:", before, "->", after)
        assert after[0] <= before[0], f"descriptors: {before[0]} -> {after[0]}"
        assert after[1] <= before[1], f"threads: {before[1]} -> {after[1]}"
        # A leak of 20 KiB a group would be 4 MiB.
        assert after[2] <= before[2] + 4096, f"memory in KiB: {before[2]} -> {after[2]}"
        assert after[3] <= before[3] + 20, f"mappings: {before[3]} -> {after[3]}"
    record_property("descriptors, threads, resident KiB, mappings", lines)


def test_thousands_of_communicators_are_not_exhausted(tmp_path):
    """More groups in a row than an MPI has communicators at once."""
    source = """
for _ in range(2500):
    group = dist.new_group([0, 1])
    dist.destroy_process_group(group)
total()
dist.destroy_process_group()
"""
    run_well(tmp_path, INIT + source, limit=120)


def test_two_jobs_side_by_side(tmp_path):
    jobs = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        jobs.append(start(folder, INIT + "for _ in range(50):\n    total()\ndist.destroy_process_group()\n"))
    for job in jobs:
        ended = end(job)
        assert ended.code == 0, ended.output
