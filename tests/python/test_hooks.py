"""Hooks of a group as Python sees them: pre, post, completion and abort hooks, what is built on them (the flight
recorder, the NaN check), durations, and extensions of the timeout.
"""

import json
import threading
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from multirank import multirank
from scripts import run, run_well
from torch._C import _distributed_c10d as c10d
from versions import VERSION, sequence_number, since

SHORT = timedelta(seconds=1)


def entries(group):
    """What the flight recorder holds of a group, oldest first."""
    trace = json.loads(c10d._dump_fr_trace_json(backend="rmpi"))
    return [entry for entry in trace["entries"] if entry["process_group"][0] == group.group_name]


def every_operation(ctx, group):
    tensor, parts = torch.ones(4), [torch.ones(4) for _ in range(ctx.size)]
    dist.all_reduce(tensor, group=group)
    dist.all_reduce(torch.ones(1 << 18), group=group, async_op=True).wait()
    dist.broadcast(tensor, 0, group=group)
    dist.all_gather(parts, tensor, group=group)
    dist.reduce_scatter(tensor, parts, group=group)
    dist.all_to_all(parts, [torch.ones(4) for _ in range(ctx.size)], group=group)
    peer = ctx.rank ^ 1
    for work in dist.batch_isend_irecv(
        [dist.P2POp(dist.isend, tensor, peer, group), dist.P2POp(dist.irecv, parts[0], peer, group)]
    ):
        work.wait()
    dist.barrier(group)


@since((2, 15), "flight recorder for backends of others")
@multirank(2, 4, gloo=False)
def test_flight_recorder_shows_completed_operations_with_durations(ctx):
    group = ctx.new_group()
    group._enable_collectives_timing()
    every_operation(ctx, group)
    shown = entries(group)
    assert len(shown) == 9
    for entry in shown:
        assert entry["state"] == "completed", entry
        assert entry["retired"], entry
    # A batch hides its members' Works from the recorder.
    timed = [entry for entry in shown if not entry["is_p2p"]]
    assert all(entry["duration_ms"] > 0 for entry in timed), timed


@since((2, 15), "flight recorder for backends of others")
@multirank(2, 4, gloo=False)
def test_flight_recorder_tells_what_has_not_ended(ctx):
    group = ctx.new_group()
    if ctx.rank == 0:
        work = dist.irecv(torch.ones(1), 1, group=group)
        assert [entry["state"] for entry in entries(group)] == ["scheduled"]
    ctx.exchange()
    if ctx.rank == 1:
        dist.send(torch.ones(1), 0, group=group)
    if ctx.rank == 0:
        work.wait()
        assert [entry["state"] for entry in entries(group)] == ["completed"]


@multirank(2, 4, gloo=False)
def test_durations(ctx):
    group = ctx.new_group()
    untimed = dist.all_reduce(torch.ones(1), group=group, async_op=True)
    untimed.wait()
    with pytest.raises(RuntimeError, match="_enable_collectives_timing"):
        untimed._get_duration()
    group._enable_collectives_timing()
    work = dist.all_reduce(torch.ones(1 << 18), group=group, async_op=True)
    work.wait()
    assert 0 < work._get_duration() < 40_000


@multirank(1, 2, 4, gloo=False)
def test_on_completion_hook_hears_of_every_operation(ctx):
    group = ctx.new_group()
    heard = []
    main = threading.get_ident()
    group._register_on_completion_hook(
        lambda info: heard.append((info.op_type, info.seq, info.active_duration, threading.get_ident()))
    )
    first = sequence_number(group)
    for _ in range(10):
        dist.all_reduce(torch.ones(1), group=group)
        dist.broadcast(torch.ones(1 << 16), 0, group=group, async_op=True)
    group._wait_for_pending_works()
    assert sorted(sequence for _, sequence, _, _ in heard) == list(range(first, first + 20))
    assert {str(kind) for kind, _, _, _ in heard} == {"OpType.ALLREDUCE", "OpType.BROADCAST"}
    assert all(duration >= timedelta(0) for _, _, duration, _ in heard)
    assert main not in {thread for _, _, _, thread in heard}


@multirank(2, gloo=False)
def test_on_completion_hook_that_raises_hurts_nobody(ctx):
    group = ctx.new_group()
    called = []

    def hook(info):
        called.append(info.seq)
        raise RuntimeError("on purpose")

    group._register_on_completion_hook(hook)
    for _ in range(3):
        tensor = torch.ones(1)
        dist.all_reduce(tensor, group=group)
        assert tensor.item() == ctx.size
    group._wait_for_pending_works()
    assert len(called) == 3


@multirank(2, gloo=False)
def test_on_completion_hook_may_issue_operations(ctx):
    group, other = ctx.new_group(), ctx.new_group()
    sums = []

    def hook(info):
        tensor = torch.ones(1)
        dist.all_reduce(tensor, group=other)
        sums.append(tensor.item())

    group._register_on_completion_hook(hook)
    for _ in range(3):
        dist.all_reduce(torch.ones(1), group=group)
    group._wait_for_pending_works()
    assert sums == [ctx.size] * 3


@since((2, 14), "abort hooks")
@multirank(2, 4, gloo=False)
def test_abort_hook_runs_before_the_error_arrives(ctx):
    group = ctx.new_group()
    group.set_timeout(SHORT)
    called = []
    assert VERSION < (2, 15) or group.supports_abort_hooks
    group.register_abort_hook(11, lambda: called.append(threading.get_ident()))
    group.register_abort_hook(12, lambda: called.append(None))
    group.unregister_abort_hook(12)
    if ctx.rank == 0:
        with pytest.raises(dist.DistBackendError):
            dist.all_reduce(torch.ones(1), group=group)
        assert len(called) == 1
        assert group._get_backend(torch.device("cpu")).get_error() == c10d.ErrorType.TIMEOUT
        with pytest.raises(dist.DistBackendError):
            dist.all_reduce(torch.ones(1), group=group)
        assert len(called) == 1
    ctx.exchange()


@since((2, 14), "hooks on operations")
@multirank(2, gloo=False)
def test_pre_and_post_hooks(ctx):
    group = ctx.new_group()
    before, after = [], []
    group.register_pre_hook(
        21, lambda args: before.append((args.name, args.op_id, [t.shape for t in args.input_tensors]))
    )
    group.register_post_hook(22, lambda args: after.append((args.name, args.op_id, args.work.is_completed())))
    dist.all_reduce(torch.ones(3), group=group)
    dist.barrier(group)
    group.unregister_pre_hook(21)
    group.unregister_post_hook(22)
    dist.all_reduce(torch.ones(3), group=group)
    names = [c10d.HookOpName.ALLREDUCE, c10d.HookOpName.BARRIER]
    assert [name for name, _, _ in before] == [name for name, _, _ in after] == names
    assert [number for _, number, _ in before] == [number for _, number, _ in after]
    assert before[0][2] == [torch.Size([3])]
    # Synchronous operations have ended when the hook hears of them.
    assert all(completed for _, _, completed in after)


@since((2, 14), "hook that looks for NaN")
@multirank(2, 4, gloo=False)
def test_nan_check_refuses_before_anything_moves(ctx):
    group = ctx.new_group()
    c10d.NanCheckHook.attach(group)
    with pytest.raises(RuntimeError, match=r"(?i)nan"):
        dist.all_reduce(torch.tensor([float("nan")]), group=group)
    tensor = torch.ones(1)
    dist.all_reduce(tensor, group=group)
    assert tensor.item() == ctx.size


@since((2, 14), "extension of the timeout")
@multirank(1, 2, gloo=False)
def test_extension_of_the_timeout(ctx):
    group = ctx.new_group(timeout=timedelta(seconds=30))

    def timeout():
        work = dist.all_reduce(torch.ones(1), group=group, async_op=True)
        work.wait()
        return work.timeout

    group._add_ephemeral_timeout(timedelta(seconds=5))
    assert timeout() == timedelta(seconds=35)
    assert timeout() == timedelta(seconds=30)


@since((2, 14), "abort hooks")
def test_a_hook_at_the_end_of_the_interpreter(tmp_path):
    """Hooks belong to Python: nothing calls them when it has begun to end, and the job ends well."""
    run_well(
        tmp_path,
        """
        import torch
        import torch.distributed as dist

        dist.init_process_group("rmpi", init_method="mpi://")
        group = dist.group.WORLD
        heard = []
        group._register_on_completion_hook(lambda info: heard.append(info.seq))
        group.register_abort_hook(1, lambda: print("Error: an abort hook has run"))
        for _ in range(50):
            dist.all_reduce(torch.ones(1 << 16), async_op=True)
        """,
    )


@since((2, 14), "abort hooks")
def test_slow_abort_hooks_run_to_their_end_when_the_error_ends_the_program(tmp_path):
    ended = run(
        tmp_path,
        """
        import time
        from datetime import timedelta
        import torch
        import torch.distributed as dist

        dist.init_process_group("rmpi", init_method="mpi://")
        group = dist.group.WORLD
        group.set_timeout(timedelta(seconds=1))

        def save():
            time.sleep(3)
            print("SAVED", flush=True)

        group.register_abort_hook(1, save)
        begun = time.monotonic()
        try:
            dist.recv(torch.ones(1), (dist.get_rank() + 1) % 2)
        except dist.DistBackendError:
            print("AFTER", time.monotonic() - begun < 3, flush=True)
            raise
        """,
    )
    assert ended.code != 0
    # The launcher ends the other rank when one has ended.
    assert ended.printed("AFTER") == ["True"] * 2, ended.output
    assert ended.printed("SAVED"), ended.output
    assert "still runs" not in ended.output


@since((2, 14), "hook that looks for NaN")
def test_health_check_and_nan_check_by_variable(tmp_path):
    ended = run_well(
        tmp_path,
        """
        import torch
        import torch.distributed as dist

        dist.init_process_group("rmpi", init_method="mpi://")
        try:
            dist.all_reduce(torch.tensor([float("nan")]))
        except RuntimeError as error:
            print("REFUSED", "nan" in str(error).lower())
        dist.barrier()
        dist.destroy_process_group()
        """,
        env={"TORCH_DIST_NAN_CHECK": "1"},
    )
    assert ended.printed("REFUSED") == ["True", "True"]
