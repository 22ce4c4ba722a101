"""Where PyTorch's own distributed tests and their baselines are, and how they are run on this backend.

The harness (`conformance.py` and the baselines `gloo_w2.json`, ...) lies in a folder beside the checkout, or where
TORCH_RMPI_CONFORMANCE says. `conformance_full.py` runs all of it, `test_conformance.py` a part.
"""

import json
import os
import re
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from processes import REPOSITORY, Job, launcher

# torch reports the name of every plugin as "custom" in the data that this test looks at.
EXCEPTED = "^test_ddp_logging_data_cpu$"
# The kinds of runs: how a baseline's name ends, and what the harness is told.
KINDS = {
    "plain": ("", ()),
    # Also the tests that ask for GPUs.
    "accel": ("_accel", ("--cpu-as-accelerator",)),
    # Those that only NCCL would run.
    "nccl": ("_nccl", ("--cpu-as-accelerator", "--persona", "nccl")),
}
# Gloo fails these, a backend that takes lists of different sizes must not.
REQUIRED = "test_all_to_all"


def folder():
    """The folder of the harness, or None."""
    places = [os.environ.get("TORCH_RMPI_CONFORMANCE"), REPOSITORY.parent / "shared" / "conformance"]
    return next((Path(place) for place in places if place and (Path(place) / "conformance.py").is_file()), None)


@dataclass
class Result:
    """What one run of the harness gave."""

    code: int | None
    output: str
    report: dict

    def failed(self):
        """The tests that ended badly, with their status."""
        tests = self.report.get("tests", {})
        return {name: test["status"] for name, test in tests.items() if test["status"] not in ("pass", "skip")}

    def problems(self):
        """What speaks against the backend, in lines; none if all is well."""
        lines = [f"dirty exit: {exit_['rcs']} after {exit_['tests']}" for exit_ in self.report.get("dirty_exits", [])]
        lines += [f"{name}: {status}" for name, status in self.failed().items() if name.startswith(REQUIRED)]
        if self.code is None:
            lines.append("the run was ended at its time limit")
        elif self.code != 0:
            lines.append(f"exit code {self.code}: some test passes in the baseline and not here")
        if not self.report.get("tests"):
            lines.append("no test was run")
        return lines


def run(harness, log, ranks, kind="plain", pattern="", limit=3600.0, batch=25, follow=False):
    """Runs the harness on that many ranks and compares with Gloo's baseline."""
    report = Path(log).with_suffix(".json")
    suffix, arguments = KINDS[kind]
    baseline = harness / f"gloo_w{ranks}{suffix}.json"
    if kind == "nccl":
        arguments = (*arguments, "--skipped-in", str(harness / f"gloo_w{ranks}_accel.json"))
    command = [
        *(sys.executable, str(harness / "conformance.py"), "--backend", "rmpi", "--world-size", str(ranks)),
        # The harness appends the interpreter and its own script.
        *("--launcher", "mpirun", "--mpirun", shlex.join([*launcher(ranks), "--no-python", "--"])),
        *("--batch", str(batch), "--json", str(report), "--exclude", EXCEPTED),
        *arguments,
    ]
    # What is not run would count as worse than the baseline.
    base = json.loads(baseline.read_text())
    base["tests"] = {
        name: test for name, test in base["tests"].items() if re.search(pattern, name) and not re.search(EXCEPTED, name)
    }
    baseline = Path(log).with_suffix(".baseline.json")
    baseline.write_text(json.dumps(base))
    if pattern:
        command += ["--filter", pattern]
    job = Job([([*command, "--baseline", str(baseline)], {})], log)
    try:
        code = follow_output(job, limit) if follow else job.wait(limit)
    finally:
        job.end()
    found = json.loads(report.read_text()) if report.exists() else {}
    return Result(code, job.output(lines=60), found)


def follow_output(job, limit):
    """Waits for the job and prints what it prints."""
    end = time.monotonic() + limit
    with job.log.open(errors="replace") as output:
        while job.running() and time.monotonic() < end:
            sys.stdout.write(output.read())
            sys.stdout.flush()
            time.sleep(0.5)
        sys.stdout.write(output.read())
        sys.stdout.flush()
    return job.exit_code()
