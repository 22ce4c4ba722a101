"""The harness of the multi-rank tests itself: what fails, dies or hangs on one rank fails the test, with its message;
and what it starts prints whole lines.

Most of it runs pytest on tests that are meant to fail, on Gloo, so that it does not depend on the backend.
"""

import re
import sys
from pathlib import Path

import pytest
from processes import Job
from scripts import end

HERE = Path(__file__).resolve().parent

SAMPLE = """
import os, signal
import torch
import torch.distributed as dist
from multirank import multirank

@multirank(2)
def test_first_passes(ctx):
    assert ctx.same(ctx.size) == 2

@multirank(2)
def test_rank_1_fails_while_rank_0_waits(ctx):
    assert ctx.rank == 0, "the message of rank 1"
    dist.barrier(ctx.group)

@multirank(2)
def test_passes_in_between(ctx):
    tensor = torch.ones(1)
    dist.all_reduce(tensor, group=ctx.group)
    assert tensor.item() == 2

@multirank(2)
def test_rank_0_dies(ctx):
    if ctx.rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    ctx.exchange()

@multirank(2, limit=4)
def test_rank_1_hangs(ctx):
    while ctx.rank == 1:
        pass

@multirank(2)
def test_all_fail(ctx):
    raise SystemExit(f"rank {ctx.rank} leaves")

@multirank(2)
def test_last_passes(ctx):
    dist.barrier(ctx.group)
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    (folder / "test_sample.py").write_text(SAMPLE)
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "-rA", str(folder)]
    env = {"RMPI_TEST_BACKEND": "gloo", "RMPI_TEST_RANKS": "", "RMPI_TEST_REPEAT": "1", "RMPI_TEST_PATIENCE": "0.5"}
    job = Job([(command, env | {"PYTHONPATH": str(HERE)})], folder / "output.log", cwd=folder)
    try:
        assert job.wait(120) is not None, job.output()
    finally:
        job.end()
    return job.output(lines=10_000)


def outcome_of(report, name):
    return re.search(rf"^(PASSED|FAILED) \S*{name}\[np2\]", report, re.MULTILINE)[1]


def test_what_is_right_passes(report):
    for name in ("test_first_passes", "test_passes_in_between", "test_last_passes"):
        assert outcome_of(report, name) == "PASSED", report


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_rank_1_fails_while_rank_0_waits", r"rank 1 failed:\n(.*\n)+AssertionError: the message of rank 1"),
        ("test_rank_0_dies", r"those that died: \[0\]"),
        (
            "test_rank_1_hangs",
            r"ranks \[1\] did not end the test within 2 s\nrank 1 is at\n(.*\n)*.*in test_rank_1_hangs",
        ),
        ("test_all_fail", r"rank \d failed:\n(.*\n)+SystemExit: rank \d leaves"),
    ],
)
def test_what_is_wrong_fails_with_its_message(report, name, message):
    assert outcome_of(report, name) == "FAILED", report
    section = re.search(rf"^_+ {name}\[np2\] _+\n(.*?)(?=^[_=]{{5}})", report, re.MULTILINE | re.DOTALL)[1]
    assert re.search(message, section), section


def test_a_line_is_not_written_in_parts(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    source = "import sys; print('in parts:', sys.stdout.write_through)"
    ended = end(Job([([sys.executable, "-c", source], {})], tmp_path / "output.log"))
    assert (ended.code, ended.output) == (0, "in parts: False")
