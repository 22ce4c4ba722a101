"""Runs one long step of a build: shows what runs and for how long, keeps its output in a log, and prints the end of the
log when the step fails.

    step.py LABEL LOG -- COMMAND...
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

TERMINAL_REFRESH_SECONDS = 0.5
PLAIN_REFRESH_SECONDS = 20.0
TAIL_LINES = 40


def last_line(log: Path) -> str:
    """The last line of the log that says something; progress bars overwrite theirs with carriage returns."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        text = file.read().decode(errors="replace").replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def show(label: str, seconds: float, detail: str, terminal: bool) -> None:
    """One progress message: rewritten in place on a terminal, a line of its own elsewhere."""
    message = f"  {label} ..." + (f" {seconds:.0f} s  {detail}" if detail else "")
    if terminal:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\033[K{message[:width]}", end="", flush=True)
    else:
        print(message[:160], flush=True)


def main(arguments: list[str]) -> int:
    try:
        label, log_name, separator, *command = arguments
    except ValueError:
        label, log_name, separator, command = "", "", "", []
    if separator != "--" or not command:
        print(__doc__, file=sys.stderr)
        return 2

    terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    log = Path(log_name)
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    show(label, 0, "", terminal)
    with log.open("wb") as output:
        # stdin is closed: a step that asks a question must fail, not wait behind the log.
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        refresh = TERMINAL_REFRESH_SECONDS if terminal else PLAIN_REFRESH_SECONDS
        try:
            while True:
                try:
                    process.wait(refresh)
                    break
                except subprocess.TimeoutExpired:
                    show(label, time.monotonic() - start, last_line(log), terminal)
        except KeyboardInterrupt:
            # The terminal sent it to the command too; give it the time to stop.
            process.wait()
            print()
            return 128 + signal.SIGINT
    clear = "\r\033[K" if terminal else ""
    seconds = time.monotonic() - start
    if process.returncode == 0:
        print(f"{clear}  {label}: done in {seconds:.0f} s", flush=True)
        return 0
    tail = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    print(f"{clear}  {label}: FAILED after {seconds:.0f} s. The end of {log}:", flush=True)
    print("\n".join(f"    {line}" for line in tail), flush=True)
    return process.returncode if process.returncode > 0 else 128 - process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
