"""Windows: memory of each rank that the others write into; such that peers can map, other memory, and both."""

import os
import threading
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from multirank import multirank
from scripts import run, run_well
from torch._C import _distributed_c10d as c10d
from versions import VERSION

if VERSION < (2, 14):
    pytest.skip("torch before 2.14 has no windows", allow_module_level=True)

CPU = torch.device("cpu")
# How the ranks are divided into nodes, if they are.
NODES = os.environ.get("RMPI_TEST_NODES")
PATIENCE = float(os.environ.get("RMPI_TEST_PATIENCE", "1"))
UNIFIED = c10d.WindowAccessType.UNIFIED
# Each tells whether a rank's tensor can be mapped.
KINDS = {
    "mapped": lambda rank: True,
    "ordinary": lambda rank: False,
    "the first mapped": lambda rank: rank == 0,
    "the first ordinary": lambda rank: rank != 0,
}


def make(group, kind, count, dtype=torch.float32):
    """A tensor of zeros."""
    if KINDS[kind](dist.get_rank(group)):
        return group._get_backend(CPU).allocate_tensor(count, dtype=dtype, device=CPU).zero_()
    return torch.zeros(count, dtype=dtype)


def values(count, seed):
    return (torch.arange(count) % 1000 + seed).float()


@multirank(1, 2, 3, 4, gloo=False)
def test_put_and_signal_around_a_ring(ctx):
    group, after, before = ctx.group, (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    assert group.supports_window
    for kind in KINDS:
        for count in (1, 1000, 300_001, 2_000_003):
            tensor = make(group, kind, 2 * count)
            window = dist._new_window(tensor, group)
            for turn, asynchronous in enumerate((False, True)):
                data = values(count, 10 * ctx.rank + turn)
                put = window.put(data, after, turn * count, asynchronous)
                signal = window.signal(after, asynchronous)
                window.wait_signal(before, asynchronous).wait()
                part = tensor[turn * count : (turn + 1) * count]
                assert torch.equal(part, values(count, 10 * before + turn)), (kind, count, turn)
                put.wait()
                signal.wait()
                # The data is there; what it was sent from is the caller's.
                data.fill_(-1)
            window.tensor_deregister()
            assert torch.equal(tensor[count:], values(count, 10 * before + 1))


@multirank(2, 3, 4, gloo=False)
def test_the_work_of_a_put_has_ended_when_the_data_is_there(ctx):
    """No signals: a barrier tells."""
    group = ctx.group
    for kind in KINDS:
        tensor = make(group, kind, 100 * ctx.size, torch.int64)
        window = dist._new_window(tensor, group)
        for turn in range(5):
            works = [
                window.put(torch.full((100,), turn * 10 + ctx.rank), peer, 100 * ctx.rank, True)
                for peer in range(ctx.size)
            ]
            for work in works:
                work.wait()
            dist.barrier(group)
            for peer in range(ctx.size):
                assert (tensor[100 * peer : 100 * (peer + 1)] == turn * 10 + peer).all(), (kind, turn)
            dist.barrier(group)
        window.tensor_deregister()


@multirank(2, 4, gloo=False)
def test_a_rank_that_computes_is_written_into(ctx):
    """Nobody on the other side calls anything."""
    group = ctx.group
    for kind in KINDS:
        tensor = make(group, kind, 1000)
        window = dist._new_window(tensor, group)
        ctx.exchange()
        if ctx.rank != 0:
            window.put(values(1000, 1)[: 1000 // ctx.size], 0, ctx.rank * (1000 // ctx.size), False)
            ctx.exchange()
        else:
            ctx.exchange()
            part = 1000 // ctx.size
            assert torch.equal(tensor[part : 2 * part], values(1000, 1)[:part])
        window.tensor_deregister()


@multirank(2, 3, gloo=False)
def test_signals_are_counted(ctx):
    window = dist._new_window(torch.zeros(1), ctx.group)
    peer = (ctx.rank + 1) % ctx.size
    for _ in range(20):
        window.signal(peer, False)
    for _ in range(20):
        window.wait_signal((ctx.rank - 1) % ctx.size, False)
    # A wait may come first, and two windows have nothing to do with each other.
    other = dist._new_window(torch.zeros(1), ctx.group)
    waits = [window.wait_signal((ctx.rank - 1) % ctx.size, True) for _ in range(3)]
    other.signal(peer, False)
    other.wait_signal((ctx.rank - 1) % ctx.size, False)
    assert not any(work.is_completed() for work in waits)
    ctx.exchange()
    for _ in range(3):
        window.signal(peer, True)
    for work in waits:
        work.wait()
    other.tensor_deregister()
    window.tensor_deregister()


@multirank(2, 3, 4, gloo=False)
def test_many_puts_in_order(ctx):
    group = ctx.group
    for kind in KINDS:
        tensor = make(group, kind, ctx.size * 2, torch.int32)
        window = dist._new_window(tensor, group)
        works = [
            window.put(torch.tensor([turn, -turn], dtype=torch.int32), peer, 2 * ctx.rank, True)
            for turn in range(200)
            for peer in range(ctx.size)
        ]
        for peer in range(ctx.size):
            window.signal(peer, True)
        for peer in range(ctx.size):
            window.wait_signal(peer, False)
            # The last one of each rank has come last.
            assert tensor[2 * peer : 2 * peer + 2].tolist() == [199, -199], kind
        for work in works:
            work.wait()
        window.tensor_deregister()


@multirank(1, 2, 4, gloo=False)
def test_map_remote_tensor(ctx):
    group = ctx.group
    tensor = make(group, "mapped", 600).view(20, 30).fill_(ctx.rank)
    window = dist._new_window(tensor, group)
    dist.barrier(group)
    mapped = {}
    for peer in range(ctx.size):
        if window.get_attr(peer).access_type == UNIFIED:
            mapped[peer] = window.map_remote_tensor(peer)
            assert mapped[peer].shape == (20, 30)
            assert (mapped[peer] == peer).all()
        else:
            with pytest.raises(NotImplementedError, match="cannot be mapped"):
                window.map_remote_tensor(peer)
    assert mapped[ctx.rank].data_ptr() == tensor.data_ptr()
    dist.barrier(group)
    after = (ctx.rank + 1) % ctx.size
    if after in mapped:
        mapped[after][3, 7] = 100 + ctx.rank
    dist.barrier(group)
    if window.get_attr((ctx.rank - 1) % ctx.size).access_type == UNIFIED:
        assert tensor[3, 7] == 100 + (ctx.rank - 1) % ctx.size
    window.tensor_deregister()
    # A view outlives the window.
    assert all(view[0, 0] == peer for peer, view in mapped.items())
    dist.barrier(group)


@multirank(2, 4, gloo=False)
def test_ordinary_memory_cannot_be_mapped(ctx):
    tensor = torch.zeros(10)
    window = dist._new_window(tensor, ctx.group)
    peer = (ctx.rank + 1) % ctx.size
    assert window.get_attr(peer).access_type == c10d.WindowAccessType.SEPARATE
    assert window.get_attr(ctx.rank).access_type == UNIFIED
    with pytest.raises(NotImplementedError, match="allocate_tensor"):
        window.map_remote_tensor(peer)
    assert window.map_remote_tensor(ctx.rank) is tensor or (window.map_remote_tensor(ctx.rank) == tensor).all()
    window.tensor_deregister()


@multirank(2, 3, gloo=False)
def test_tensors_of_different_lengths_and_none(ctx):
    group = ctx.group
    for kind in KINDS:
        tensor = make(group, kind, 100 * ctx.rank)
        window = dist._new_window(tensor, group)
        for peer in range(ctx.size):
            window.put(torch.full((peer,), 1.0 + ctx.rank), peer, peer * ctx.rank, False)
            with pytest.raises(ValueError, match=f"rank {peer}"):
                window.put(torch.ones(1), peer, 100 * peer, False)
        dist.barrier(group)
        expected = torch.arange(1.0, 1 + ctx.size).repeat_interleave(ctx.rank)
        assert torch.equal(tensor[: expected.numel()], expected)
        window.tensor_deregister()


@multirank(2, gloo=False)
def test_noncontiguous_data_and_every_dtype(ctx):
    group, peer = ctx.group, 1 - ctx.rank
    for dtype in (torch.bfloat16, torch.bool, torch.complex128, torch.float8_e4m3fn, torch.int8):
        for kind in KINDS:
            tensor = make(group, kind, 12, torch.uint8 if dtype == torch.float8_e4m3fn else dtype).to(dtype)
            window = dist._new_window(tensor, group)
            data = torch.ones(3, 4).to(dtype).t()
            assert not data.is_contiguous()
            window.put(data, peer, 0, False)
            window.signal(peer, False)
            window.wait_signal(peer, False)
            assert (tensor.to(torch.complex64) == 1).all()
            window.tensor_deregister()


@multirank(2, 3, gloo=False)
def test_what_is_refused_before_anything_moves(ctx):
    group = ctx.group
    empty = dist._new_window(group=group)
    for call in (
        lambda: empty.put(torch.ones(1), 0, 0, False),
        lambda: empty.signal(0, False),
        lambda: empty.wait_signal(0, False),
        lambda: empty.map_remote_tensor(0),
        empty.tensor_deregister,
    ):
        with pytest.raises(ValueError, match="tensor_register"):
            call()
    with pytest.raises(ValueError, match="contiguous"):
        empty.tensor_register(torch.zeros(4, 4).t())
    tensor = torch.zeros(10)
    empty.tensor_register(tensor)
    window = empty
    with pytest.raises(ValueError, match="tensor_deregister"):
        window.tensor_register(torch.zeros(10))
    with pytest.raises(TypeError, match="dtype"):
        window.put(torch.ones(1, dtype=torch.int32), 0, 0, False)
    for rank in (-1, ctx.size):
        for call in (
            lambda rank=rank: window.put(torch.ones(1), rank, 0, False),
            lambda rank=rank: window.signal(rank, False),
            lambda rank=rank: window.wait_signal(rank, False),
            lambda rank=rank: window.map_remote_tensor(rank),
            lambda rank=rank: window.get_attr(rank),
        ):
            with pytest.raises(ValueError, match="out of range"):
                call()
    for offset in (-1, 10, 1 << 62):
        with pytest.raises(ValueError, match=r"put"):
            window.put(torch.ones(1), 0, offset, False)
    with pytest.raises(ValueError, match="put"):
        window.put(torch.ones(11), 0, 0, False)
    ctx.exchange()
    assert (tensor == 0).all()
    window.tensor_deregister()
    # It can be used again.
    window.tensor_register(tensor)
    window.put(torch.ones(1), ctx.rank, 3, False)
    assert tensor.sum() == 1
    window.tensor_deregister()


@multirank(2, 3, gloo=False)
def test_ranks_that_register_different_dtypes_all_raise(ctx):
    group = ctx.new_group()
    dtype = torch.float64 if ctx.rank == 1 else torch.float32
    with pytest.raises(dist.DistBackendError, match="rank"):
        dist._new_window(torch.zeros(10, dtype=dtype), group)
    ctx.exchange()


@multirank(2, 4, gloo=False)
def test_a_signal_that_does_not_come_times_out_and_names_the_rank(ctx):
    group = ctx.new_group()
    window = dist._new_window(torch.zeros(1), group)
    if ctx.rank == 0:
        options = c10d.WaitSignalOptions()
        options.timeout = timedelta(milliseconds=300)
        begun = time.monotonic()
        with pytest.raises(dist.DistBackendError, match="wait_signal from rank 1"):
            window.wait_signal(1, False, options)
        assert time.monotonic() - begun < 20
        with pytest.raises(dist.DistBackendError):
            window.signal(1, False)
    ctx.exchange()
    del window


@multirank(2, gloo=False)
def test_collectives_beside_a_window(ctx):
    """The service of a window disturbs nothing, and nothing disturbs it."""
    group = ctx.group
    for kind in ("mapped", "ordinary"):
        tensor = make(group, kind, 10_000)
        window = dist._new_window(tensor, group)
        stop = threading.Event()

        def put_on(window=window, stop=stop):
            while not stop.is_set():
                window.put(values(10_000, 3), 1 - ctx.rank, 0, False)

        thread = threading.Thread(target=put_on)
        thread.start()
        for turn in range(200):
            reduced = torch.full((1 + 50 * turn,), 1.0)
            dist.all_reduce(reduced, group=group)
            assert (reduced == ctx.size).all()
        stop.set()
        thread.join()
        dist.barrier(group)
        assert torch.equal(tensor, values(10_000, 3))
        window.tensor_deregister()


@multirank(2, gloo=False)
def test_a_window_that_is_dropped(ctx):
    group = ctx.new_group()
    for kind in KINDS:
        window = dist._new_window(make(group, kind, 100), group)
        window.put(torch.ones(1), 1 - ctx.rank, 0, False)
        dist.barrier(group)
        del window
        tensor = torch.ones(1)
        dist.all_reduce(tensor, group=group)
        assert tensor == ctx.size


@multirank(2, gloo=False)
def test_a_window_of_a_group_that_was_destroyed(ctx):
    group = dist.new_group()
    tensor = torch.zeros(100)
    window = dist._new_window(tensor, group)
    dist.barrier(group)
    dist.destroy_process_group(group)
    with pytest.raises((ValueError, dist.DistBackendError)):
        window.put(torch.ones(1), 1 - ctx.rank, 0, False)
    del window
    ctx.exchange()


@multirank(2, gloo=False)
def test_a_window_that_keeps_its_tensor_and_one_that_does_not(ctx):
    window = dist._new_window(group=ctx.group)
    window.tensor_register(torch.zeros(1000), True)
    window.put(torch.full((1000,), 5.0), 1 - ctx.rank, 0, False)
    dist.barrier(ctx.group)
    assert (window.map_remote_tensor(ctx.rank) == 5).all()
    window.tensor_deregister()
    tensor = torch.zeros(1000)
    window.tensor_register(tensor, False)
    window.put(torch.full((1000,), 6.0), 1 - ctx.rank, 0, False)
    dist.barrier(ctx.group)
    assert (tensor == 6).all()
    assert (window.map_remote_tensor(ctx.rank) == 6).all()
    window.tensor_deregister()


@multirank(2, gloo=False)
def test_abort_ends_what_waits(ctx):
    group = ctx.new_group()
    window = dist._new_window(torch.zeros(10), group)
    waiting = window.wait_signal(1 - ctx.rank, True)
    ctx.exchange()
    begun = time.monotonic()
    group._get_backend(CPU).abort()
    with pytest.raises(dist.DistBackendError, match="abort"):
        waiting.wait()
    assert time.monotonic() - begun < 10
    with pytest.raises(dist.DistBackendError):
        window.put(torch.ones(1), 1 - ctx.rank, 0, False)
    ctx.exchange()


@multirank(3, gloo=False)
def test_a_rank_that_fails_is_heard_of_by_who_puts_elsewhere(ctx):
    """Rank 0 fails; the service of rank 1 tells rank 2, which puts there. Between nodes nobody hears of it."""
    if NODES:
        return
    group = ctx.new_group()
    window = dist._new_window(torch.zeros(10), group)
    ctx.exchange()
    if ctx.rank == 0:
        group._get_backend(CPU).abort()
    else:
        begun = time.monotonic()

        def put_on():
            while True:
                window.put(torch.ones(1), 3 - ctx.rank, 0, False)

        with pytest.raises(dist.DistBackendError, match="rank"):
            put_on()
        assert time.monotonic() - begun < 20
    ctx.exchange()


@multirank(2, gloo=False)
def test_a_put_to_oneself_outlives_its_window(ctx):
    group = ctx.new_group()
    for kind in KINDS:
        tensor = make(group, kind, 4 << 20)
        window = dist._new_window(tensor, group)
        works = [window.put(torch.full((4 << 20,), float(turn)), ctx.rank, 0, True) for turn in range(3)]
        dist.barrier(group)
        del window, tensor
        for work in works:
            work.wait()
    # What overlaps is copied as if it was not.
    tensor = torch.arange(3 << 20, dtype=torch.float32)
    window = dist._new_window(tensor, group)
    window.put(tensor[: 2 << 20], ctx.rank, 1 << 20, True).wait()
    assert torch.equal(tensor[1 << 20 :], torch.arange(2 << 20, dtype=torch.float32))
    window.tensor_deregister()


@multirank(2, gloo=False)
def test_messages_beside_a_window_with_a_service(ctx):
    group, peer = ctx.group, 1 - ctx.rank
    window = dist._new_window(torch.zeros(10), group)
    window.signal(peer, False)
    for count in (1, 10_000, 1_000_000):
        works = [dist.isend(torch.full((count,), float(turn)), peer, group=group, tag=turn) for turn in range(4)]
        for turn in (2, 0, 3, 1):
            tensor = torch.empty(count)
            dist.recv(tensor, peer, group=group, tag=turn)
            assert (tensor == turn).all()
        for work in works:
            work.wait()
    window.wait_signal(peer, False)
    window.tensor_deregister()


def test_a_program_that_ends_with_a_window(tmp_path):
    """The service ends with the process, at once."""
    begun = time.monotonic()
    ended = run_well(
        tmp_path,
        """
        import time
        import torch
        import torch.distributed as dist

        dist.init_process_group("rmpi", init_method="mpi://")
        tensor = torch.zeros(1000)
        window = dist._new_window(tensor)
        window.put(torch.ones(1), (dist.get_rank() + 1) % 2, 0, False)
        dist.barrier()
        assert tensor[0] == 1
        print("ENDS", time.monotonic())
        """,
    )
    # A service that was waited for would take five seconds.
    last = max(map(float, ended.printed("ENDS")))
    assert begun < last
    assert time.monotonic() - last < 4 * PATIENCE


def test_an_interrupted_registration(tmp_path):
    """The others come later, and find the window; its memory is kept."""
    ended = run(
        tmp_path,
        """
        import _thread
        import gc
        import threading
        import time
        import torch
        import torch.distributed as dist

        dist.init_process_group("rmpi", init_method="mpi://")
        if dist.get_rank() == 0:
            threading.Timer(0.5, _thread.interrupt_main).start()
            try:
                dist._new_window(torch.zeros(1 << 20))
            except KeyboardInterrupt:
                print("INTERRUPTED", flush=True)
            gc.collect()
            others = [torch.zeros(1 << 20) for _ in range(20)]
            tensor = torch.zeros(1)
            dist.recv(tensor, 1)
            print("UNTOUCHED", all((other == 0).all() for other in others), flush=True)
        else:
            time.sleep(2)
            window = dist._new_window(torch.zeros(1 << 20))
            window.put(torch.ones(1 << 20), 0, 0, False)
            dist.send(torch.ones(1), 0)
        dist.barrier()
        dist.destroy_process_group()
        """,
    )
    assert ended.printed("INTERRUPTED") == [""], ended.output
    assert ended.printed("UNTOUCHED") == ["True"], ended.output
    assert ended.code == 0, ended.output
