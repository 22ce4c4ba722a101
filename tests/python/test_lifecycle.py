"""How a job ends: in order, without destroying, by an exception, by sys.exit; and what it must get along with."""

import pytest
from scripts import run, run_well

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
    """Twenty times, and mpi4py, imported after that, finds MPI alive and working."""
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
from mpi4py import MPI
comm = MPI.COMM_WORLD
dist.init_process_group('rmpi', init_method='mpi://')
assert (comm.rank, comm.size) == (dist.get_rank(), dist.get_world_size())
for _ in range(20):
    assert comm.allreduce(1) == comm.size
    tensor = torch.ones(1)
    dist.all_reduce(tensor)
    assert tensor.item() == comm.size
dist.destroy_process_group()
assert comm.allreduce(1) == comm.size
print("TURNS", turn + 1, flush=True)
"""
    assert run_well(tmp_path, source, ranks=3).printed("TURNS") == ["20"] * 3


def test_forgets_to_destroy(tmp_path):
    """Whether a rank comes to its end or calls sys.exit(0), and with an operation in flight that every rank issued."""
    source = """
group = dist.new_group([0, 1])
total(group)
work = dist.all_reduce(torch.ones(1000), async_op=True)
if rank == 1:
    sys.exit(0)
"""
    run_well(tmp_path, INIT + source)


def test_leaves_a_receive_that_nobody_matches(tmp_path):
    """It neither hangs nor crashes, and says what was left."""
    ended = run(tmp_path, INIT + "lost = dist.irecv(torch.ones(1), 1 - rank)\n")
    assert ended.code in (0, 1), ended.output
    assert "Traceback" not in ended.output
    assert ended.code == 0 or "torch-rmpi" in ended.output, ended.output


def test_leaves_a_message_that_nobody_receives(tmp_path):
    """It is lost, and the exit code says so: the receiver counts on it."""
    source = """
if rank == 0:
    dist.isend(torch.ones(3_000_000), 1)
else:
    time.sleep(10)
"""
    ended = run(tmp_path, INIT + source)
    assert ended.code != 0, ended.output
    assert "messages are still under way that no peer has matched" in ended.output, ended.output


def test_an_exception_on_one_rank(tmp_path):
    """The others wait for it in a collective that it never joins; the job ends, and says why."""
    source = "if rank == 0:\n    raise ValueError('this rank is broken')\ntotal()\n"
    ended = run(tmp_path, INIT + source, ranks=3)
    assert ended.code != 0
    assert "ValueError: this rank is broken" in ended.output, ended.output


def test_exit_code_of_one_rank(tmp_path):
    ended = run(tmp_path, INIT + "if rank == 1:\n    sys.exit(3)\ntotal()\n")
    assert ended.code == 3, ended.output


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


def test_interrupt(tmp_path):
    """SIGINT ends a wait that nothing else would end, within a second, by KeyboardInterrupt; so it does elsewhere."""
    source = """
import threading

def announce(line, name):
    # Another thread, so that it also shows that the wait lets Python run.
    while True:
        frame = sys._current_frames()[threading.main_thread().ident]
        while frame.f_back:
            frame = frame.f_back
        if frame.f_lineno == line:
            break
    open(name, 'w').close()

assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
lines = [number for number, line in enumerate(open(__file__), 1) if line.endswith('# HERE\\n')]
assert len(lines) == 4
groups = [dist.new_group([0, 1]) for _ in lines]
pids = [None, None]
dist.all_gather_object(pids, os.getpid())
for turn, line in enumerate(lines):
    if rank == 0:
        work = dist.irecv(torch.ones(1), 1, group=groups[turn], tag=5)
        threading.Thread(target=announce, args=(line, f'waiting {turn}'), daemon=True).start()
        try:
            if turn == 0:
                dist.recv(torch.ones(1), 1, group=groups[turn])  # HERE
            elif turn == 1:
                dist.barrier(groups[turn])  # HERE
            elif turn == 2:
                work.wait()  # HERE
            else:
                time.sleep(30)  # HERE
        except KeyboardInterrupt:
            print("INTERRUPTED", turn, time.monotonic(), flush=True)
        open(f'done {turn}', 'w').close()
    else:
        while not os.path.exists(f'waiting {turn}'):
            pass
        print("SENT", turn, time.monotonic(), flush=True)
        os.kill(pids[0], signal.SIGINT)
        while not os.path.exists(f'done {turn}'):
            pass
os._exit(0)
"""
    ended = run(tmp_path, INIT + source, limit=60)
    times = {word: dict(line.split() for line in ended.printed(word)) for word in ("SENT", "INTERRUPTED")}
    for turn in "0123":
        assert turn in times["INTERRUPTED"], f"wait {turn} was not interrupted\n{ended.output}"
        assert float(times["INTERRUPTED"][turn]) - float(times["SENT"][turn]) < 1.0, ended.output


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


def test_mpi4py_with_too_little_thread_support(tmp_path):
    """Refused, with what to write there."""
    source = "import mpi4py\nmpi4py.rc.threads = False\nfrom mpi4py import MPI\n"
    ended = run(tmp_path, source + INIT)
    assert ended.code != 0, ended.output
    assert "mpi4py.rc" in ended.output, ended.output


def test_forked_children(tmp_path):
    """A DataLoader's workers, a child that tries to use the group, a subprocess: none disturbs its parent's MPI."""
    source = """
import subprocess
from torch.utils.data import DataLoader, TensorDataset
from torch.nn.parallel import DistributedDataParallel
data = TensorDataset(torch.randn(32, 8), torch.randn(32, 1))
network = DistributedDataParallel(torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(network.parameters(), 0.01)
for epoch in range(2):
    for inputs, targets in DataLoader(data, batch_size=8, num_workers=2, multiprocessing_context='fork'):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(inputs), targets).backward()
        optimizer.step()
child = os.fork()
if child == 0:
    try:
        total()
    except BaseException as error:
        print("CHILD", type(error).__name__, flush=True)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert total() == size
assert subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True, text=True).stdout == '1\\n'
assert total() == size
dist.destroy_process_group()
print("WORKED", flush=True)
"""
    ended = run(tmp_path, INIT + source)
    assert ended.code == 0, ended.output
    assert len(ended.printed("WORKED")) == 2, ended.output
    assert ended.printed("CHILD") == ["NotImplementedError"] * 2, ended.output
    assert "Traceback" not in ended.output


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
print("STATE", *before, *after, flush=True)
# More in a row than an MPI has communicators at once.
for _ in range(850):
    dist.destroy_process_group(dist.new_group([0, 1]))
total()
dist.destroy_process_group()
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


@pytest.mark.parametrize("wait", ["dist.recv(torch.zeros(3), 1 - rank, group=group)", "rank or dist.barrier(group)"])
def test_a_daemon_thread_still_waits(tmp_path, wait):
    """Python ends such a thread in the middle of whatever it returns to; it must not return."""
    source = f"""
import threading
group = dist.new_group([0, 1])
def blocked():
    {wait}
for _ in range(3):
    threading.Thread(target=blocked, daemon=True).start()
time.sleep(0.5)
"""
    ended = run(tmp_path, INIT + source)
    assert ended.code in (0, 1), ended.output
    assert "terminate called" not in ended.output, ended.output
    assert "Aborted" not in ended.output, ended.output


def test_handlers_of_the_program_may_end_its_threads(tmp_path):
    """Those registered after `import torch`, though before the first group, run before threads are kept."""
    source = """
import threading
stop = threading.Event()
def beat():
    while not stop.is_set():
        dist.isend(torch.ones(1), rank)
        dist.recv(torch.ones(1), rank)
thread = threading.Thread(target=beat, daemon=True)
def end():
    stop.set()
    thread.join()
    print("JOINED", flush=True)
handlers.append(end)
thread.start()
time.sleep(0.3)
"""
    early = "import atexit, torch\nhandlers = []\natexit.register(lambda: handlers[0]())\n"
    ended = run(tmp_path, early + INIT + source)
    assert ended.code == 0, ended.output
    assert ended.output.count("JOINED") == 2, ended.output


def test_a_callback_still_runs_at_the_end(tmp_path):
    """It is waited for, longer than pending operations are, and may use the group; then the process ends in order."""
    source = """
def late(_):
    time.sleep(7)
    print("LATE", total(), flush=True)
dist.all_reduce(torch.ones(2), async_op=True).get_future().then(late)
"""
    ended = run(tmp_path, INIT + source)
    assert ended.code == 0, ended.output
    assert ended.printed("LATE") == ["2.0"] * 2, ended.output


@pytest.mark.parametrize("what", ["time.sleep(100)", "all(True for _ in iter(int, 1))", "work().get_future().wait()"])
def test_an_exception_while_a_callback_runs(tmp_path, what):
    """Nobody waits for it for long, and the exit code is that of the exception."""
    source = f"""
def work():
    return dist.irecv(torch.ones(1), 1 - rank)
# It ends after the callback was attached, which so does not run here.
received = dist.irecv(torch.ones(2), 1 - rank, tag=9)
received.get_future().then(lambda _: {what})
dist.barrier()
dist.send(torch.ones(2), 1 - rank, tag=9)
time.sleep(0.5)
raise RuntimeError("mine")
"""
    ended = run(tmp_path, INIT + source)
    assert ended.code == 1, ended.output
    assert "mine" in ended.output
    assert "terminate called" not in ended.output, ended.output


def test_a_process_that_a_rank_starts(tmp_path):
    """It inherits the launcher's variables, and must not become the same rank."""
    source = """
import subprocess
child = "import torch.distributed as dist; dist.init_process_group('rmpi', init_method='mpi://')"
for env in (None, dict(os.environ)):
    ended = subprocess.run([sys.executable, "-c", child], env=env, capture_output=True, text=True)
    print("CHILD", ended.returncode, "NotImplementedError: this process was started by" in ended.stderr, flush=True)
for _ in range(20):
    tensor = torch.ones(100_000)
    dist.all_reduce(tensor)
    assert tensor[0] == size
"""
    ended = run(tmp_path, INIT + source)
    assert ended.code == 0, ended.output
    assert ended.printed("CHILD") == ["1 True"] * 4
