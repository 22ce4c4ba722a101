"""tools/check_prerequisites.sh names what is missing or too old, and how to get it, on one line each."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "check_prerequisites.sh"
NEEDED = ("git", "g++", "python3", "cargo", "rustc")


@pytest.fixture
def tools(tmp_path):
    """A folder that stands for PATH, with a program of a good version for each prerequisite."""
    program(tmp_path, "git", "git version 2.39.5")
    program(tmp_path, "g++", "12.2.0")
    program(tmp_path, "cargo", "cargo 1.88.0 (873a06493 2025-05-10)")
    program(tmp_path, "rustc", "rustc 1.88.0 (6b00bc388 2025-06-23)")
    program(tmp_path, "python3", "3.11")
    program(tmp_path, "apt-get", "")
    return tmp_path


def program(folder, name, output, status=0):
    """A program that prints `output` and exits with `status`, whatever it is asked."""
    path = folder / name
    path.write_text(f"#!{shutil.which('sh')}\necho '{output}'\nexit {status}\n")
    path.chmod(0o755)


def check(tools, **variables):
    environment = {"PATH": str(tools), "HOME": str(tools), "MAKE_VERSION": "4.3", **variables}
    return subprocess.run(
        [shutil.which("sh"), str(SCRIPT)], env=environment, capture_output=True, text=True, check=False
    )


def test_says_nothing_when_all_is_there(tools):
    result = check(tools)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("name", NEEDED)
def test_names_what_is_missing(tools, name):
    (tools / name).unlink()
    result = check(tools)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert f"{name} is missing" in line
    assert ("sh.rustup.rs" if name in {"cargo", "rustc"} else "apt-get install") in line


@pytest.mark.parametrize(
    ("name", "output", "expected"),
    [
        ("g++", "11.4.0", "g++ 11.4.0 is too old (12 or newer"),
        ("python3", "3.10", "python3 is Python 3.10, too old (3.11 or newer"),
        ("cargo", "cargo 1.75.0", "cargo 1.75.0 is too old (Rust 1.88 or newer"),
        ("rustc", "rustc 1.87.0 (17067e9ac 2025-05-09)", "rustc 1.87.0 is too old (Rust 1.88 or newer"),
    ],
)
def test_names_what_is_too_old(tools, name, output, expected):
    program(tools, name, output)
    result = check(tools)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert expected in line
    assert "install it with: " in line


def test_rustup_without_a_toolchain_is_told_to_get_one(tools):
    program(tools, "cargo", "error: rustup could not choose a version of cargo to run", status=1)
    program(tools, "rustup", "rustup 1.28.2")
    result = check(tools)
    assert result.returncode == 1
    assert "rustup default stable" in result.stderr


def test_python_without_venv(tools):
    (tools / "python3").write_text(f"#!{shutil.which('sh')}\ncase $2 in *ensurepip*) exit 1 ;; esac\necho 3.12\n")
    result = check(tools)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "venv module is missing" in line
    assert "python3.12-venv" in line


def test_every_problem_has_its_line(tools):
    (tools / "git").unlink()
    (tools / "cargo").unlink()
    assert len(check(tools).stderr.splitlines()) == 2


def test_old_make(tools):
    assert "GNU make 3.81 is too old" in check(tools, MAKE_VERSION="3.81").stderr


def test_unknown_mpi(tools):
    assert "MPI=lam is unknown" in check(tools, MPI="lam").stderr


def test_system_mpi_needs_mpicc(tools):
    result = check(tools, MPI="system", MPICC="")
    assert result.returncode == 1
    assert "no mpicc on PATH; install it with: sudo apt-get install -y libopenmpi-dev" in result.stderr


def test_the_real_tools_pass():
    environment = {**os.environ, "MAKE_VERSION": "4.3", "MPI": "openmpi"}
    environment["PATH"] += os.pathsep + str(Path.home() / ".cargo" / "bin")
    result = subprocess.run([str(SCRIPT)], env=environment, capture_output=True, text=True, check=False)
    assert result.stderr == ""
