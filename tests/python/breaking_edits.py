"""Breaks the C++ shim in one place after another, and sees to it that tests notice.

python tests/python/breaking_edits.py [--only REGEX]

Each edit is made in the checkout, built and undone; the shim must have no changes that are not committed. Takes about
a minute for each, after the same tests without any edit.
"""

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from processes import REPOSITORY, Job

BUILD = ["make", "build"]
# Seconds for a build, and for the tests of one edit: what is broken may hang.
LIMIT = 400


@dataclass
class Edit:
    """What is broken: `old` becomes `new`, and one of the tests has to fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


EDITS = [
    Edit(
        "the reduction is always a sum",
        "core.cpp",
        "  call.reduce_op = reduction.op;\n",
        "",
        "test_all_reduce.py",
    ),
    Edit(
        "broadcast from rank 0 always",
        "collectives.cpp",
        "  launch.call.root = opts.rootRank;\n  launch.profiled = tensors;",
        "  launch.profiled = tensors;",
        "test_broadcast.py",
    ),
    Edit(
        "outputs in other layouts are not written",
        "staging.cpp",
        "for (auto& [tensor, buffer] : copies_) tensor.copy_(buffer);",
        "",
        "test_layouts.py",
    ),
    Edit(
        "inputs with a pending conjugation are sent as they are",
        "staging.cpp",
        " && !tensor.is_conj() && !tensor.is_neg()",
        "",
        "test_layouts.py",
    ),
    Edit(
        "overlapping outputs are taken",
        "tensor_check.cpp",
        "at::has_internal_overlap(tensor) != at::MemOverlap::Yes",
        "true",
        "test_layouts.py test_bad_input.py",
    ),
    Edit(
        "wait() does not raise",
        "work_rmpi.cpp",
        "  if (error_) std::rethrow_exception(error_);\n",
        "",
        "test_timeouts.py test_async_work.py",
    ),
    Edit(
        "a failed operation has no exception",
        "work_rmpi.cpp",
        "return done() ? error_ : nullptr;",
        "return nullptr;",
        "test_timeouts.py test_async_work.py",
    ),
    Edit(
        "a future that is asked for late is never completed",
        "work_rmpi.cpp",
        "  if (late) settle(future, nullptr);\n",
        "",
        "test_async_work.py",
    ),
    Edit(
        "a batch does not know of its members' errors",
        "work_rmpi.cpp",
        "      batch_error_ = member.error_;\n",
        "",
        "test_coalesced.py",
    ),
    Edit(
        "a batch gives no results",
        "work_rmpi.cpp",
        "  for (const auto& member : members_) {\n    auto more",
        "  for (const auto& member : decltype(members_){}) {\n    auto more",
        "test_coalesced.py",
    ),
    Edit(
        "the sender is not told",
        "work_rmpi.cpp",
        "return done() ? source_ : -1;",
        "return -1;",
        "test_send_recv.py",
    ),
    Edit(
        "no profiler events",
        "work_rmpi.cpp",
        "return title != nullptr && at::hasCallbacks() ? title : nullptr;",
        "return nullptr;",
        "test_sequence_and_profiler.py",
    ),
    Edit(
        "durations are not told",
        "observers.cpp",
        "hook(key, milliseconds);",
        "hook(key, std::nullopt);",
        "test_hooks.py",
    ),
    Edit(
        "abort hooks do not run",
        "observers.cpp",
        "if (is_first && run) Aside::start(run);",
        "",
        "test_hooks.py",
    ),
    Edit(
        "setTimeout changes nothing",
        "process_group_rmpi.cpp",
        "    core_->group->set_timeout(timeout.count());\n",
        "",
        "test_timeouts.py",
    ),
    Edit(
        "a longer timeout is for good",
        "work_rmpi.cpp",
        "  if (lease_) lease_->end();\n",
        "",
        "test_hooks.py",
    ),
    Edit(
        "monitored barriers stop at the first that is missing",
        "collectives.cpp",
        "  launch.call.wait_all_ranks = wait_all_ranks;\n",
        "",
        "test_barrier.py",
    ),
    Edit(
        "split keeps the order of the parent",
        "membership.cpp",
        "  const auto rank = position(ranks, rank_);\n  if (rank < 0) return nullptr;",
        "  auto order = ranks;\n  std::sort(order.begin(), order.end());\n  const auto rank = position(order, rank_);\n"
        "  if (rank < 0) return nullptr;",
        "test_membership.py",
    ),
    Edit(
        "estimates count only the last operation",
        "core.cpp",
        "*sum += call_core",
        "*sum = call_core",
        "test_time_estimate.py",
    ),
    Edit(
        "windows are written at their beginning",
        "window.cpp",
        "  launch.call.offset = static_cast<std::uint64_t>(offset * size);\n",
        "",
        "test_window.py",
    ),
    Edit(
        "allocateTensor gives ordinary memory",
        "memory.cpp",
        "allocator.get(), c10::DispatchKeySet",
        "c10::GetAllocator(c10::kCPU), c10::DispatchKeySet",
        "test_allocation.py",
    ),
    Edit(
        "sparse tensors of different shapes are added",
        "sparse.cpp",
        "           sizes == other.sizes;",
        "           true;",
        "test_all_reduce.py",
    ),
    Edit(
        "a forked child is not told",
        "fork_guard.hpp",
        "return process_generation() == owner_;",
        "return true;",
        "test_lifecycle.py",
    ),
]


def run(command, limit):
    """The exit code, or None where the command has not ended in that time, and the end of what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job([(command, {})], Path(folder) / "log", cwd=REPOSITORY)
        try:
            return job.wait(limit), job.output(lines=10)
        finally:
            job.end()


def outcome(tests):
    """The exit code of pytest, 0 or 1, or None where the tests have not ended."""
    paths = [f"tests/python/{name}" for name in tests.split()]
    code, output = run([sys.executable, "-m", "pytest", "-q", "-x", *paths], LIMIT)
    if code not in (0, 1, None):
        raise RuntimeError(f"pytest ended with {code}: {output}")
    return code


def try_out(edit):
    """What became of it."""
    path = REPOSITORY / "cpp" / edit.file
    whole = path.read_text()
    if whole.count(edit.old) != 1:
        return f"STALE: {edit.file} has its text {whole.count(edit.old)} times"
    path.write_text(whole.replace(edit.old, edit.new))
    try:
        code, output = run(BUILD, LIMIT)
        if code != 0:
            return f"DOES NOT BUILD: {output}"
        return {0: "NOT NOTICED", 1: "noticed", None: "noticed (hung)"}[outcome(edit.tests)]
    finally:
        path.write_text(whole)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="regular expression on what is broken")
    options = parser.parse_args()
    changed = subprocess.check_output(["git", "status", "--porcelain", "cpp"], cwd=REPOSITORY, text=True)
    if changed:
        sys.exit(f"the shim has changes that are not committed:\n{changed}")
    # An edit that is under way is undone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    edits = [edit for edit in EDITS if re.search(options.only, edit.name)]
    for tests in sorted({edit.tests for edit in edits}):
        if outcome(tests) != 0:
            sys.exit(f"{tests}: fails, or hangs, without any edit")
    bad = []
    try:
        for edit in edits:
            begun = time.monotonic()
            became = try_out(edit)
            print(f"{became}: {edit.name} ({time.monotonic() - begun:.0f} s)", flush=True)
            if not became.startswith("noticed"):
                bad.append(edit.name)
    finally:
        code, output = run(BUILD, LIMIT)
        if code != 0:
            sys.exit(f"the shim could not be built again: {output}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
