"""Running a small script on several ranks as its own job, for tests of how jobs start and end."""

import os
import textwrap
from dataclasses import dataclass

from processes import Job, launcher

# Seconds; busy machines get more, as in launches.py.
LIMIT = 60.0 * float(os.environ.get("RMPI_TEST_PATIENCE", "1"))


@dataclass
class Ended:
    """How the job of a script ended."""

    code: int
    output: str

    def printed(self, prefix):
        """What the ranks printed on lines that begin with the prefix, sorted."""
        lines = [line for line in self.output.splitlines() if line.startswith(prefix)]
        return sorted(line.removeprefix(prefix).strip() for line in lines)


def start(folder, source, ranks=2, command=None, env=None):
    """Starts the script under the launcher, or under another command; returns the Job."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(source))
    arguments = [*(launcher(ranks) if command is None else command), str(script)]
    return Job([(arguments, env or {})], folder / "output.log", cwd=folder)


def end(job, limit=LIMIT):
    """Waits for the job's end; fails where it hangs or leaves a process behind."""
    try:
        code = job.wait(limit)
        assert code is not None, f"the job still runs after {limit} s\n{job.output()}"
        left = job.left_over()
        assert not left, f"processes {left} are left behind\n{job.output()}"
    finally:
        job.end()
    return Ended(code, job.output(lines=10_000))


def run(folder, source, ranks=2, command=None, env=None, limit=LIMIT):
    """Runs the script to its end."""
    return end(start(folder, source, ranks, command, env), limit)


def run_well(folder, source, ranks=2, **options):
    """Runs the script, which must end with exit code 0 on all ranks and print no warning or error."""
    ended = run(folder, source, ranks, **options)
    assert ended.code == 0, f"exit code {ended.code}\n{ended.output}"
    for word in ("Traceback", "Error", "Warning", "warning", "terminate called"):
        assert word not in ended.output, ended.output
    return ended
