"""docs/surface.md is what headers and tests say; and the tool that writes it notices what it is for."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "surface.py"


@pytest.fixture(scope="module")
def surface():
    specification = importlib.util.spec_from_file_location("surface", TOOL)
    module = importlib.util.module_from_spec(specification)
    sys.modules["surface"] = module
    specification.loader.exec_module(module)
    return module


def test_the_table_is_up_to_date():
    import torch

    table = ROOT / "docs" / "surface.md"
    if f"torch {torch.__version__.split('+')[0]} " not in table.read_text():
        pytest.skip(f"the table is of another torch than {torch.__version__}")
    bridge = Path(os.environ["CARGO_TARGET_DIR"]) / "cxxbridge"
    command = [sys.executable, TOOL, "--bridge", bridge, "--check", table]
    checked = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert checked.returncode == 0, checked.stderr


def a_row(surface, name, overridden=True, cpp=(), python=()):
    return surface.row(
        "c10d::Backend",
        name,
        "rmpi::ProcessGroupRMPI",
        "process_group_rmpi.hpp",
        overridden,
        {"cpp": cpp, "python": python},
    )


def test_what_is_neither_overridden_nor_excused_is_a_problem(surface):
    assert "neither" in a_row(surface, "a_function_of_the_future", overridden=False).problem
    assert a_row(surface, "setGroupUid", overridden=False).problem == ""


def test_what_no_test_calls_is_a_problem(surface):
    cpp, python = [("suite.test", "group->broadcast(tensors)")], [("file::test", "dist.broadcast(tensor, 0)")]
    assert a_row(surface, "broadcast", cpp=cpp, python=python).problem == ""
    assert "C++" in a_row(surface, "broadcast", python=python).problem
    assert "Python" in a_row(surface, "broadcast", cpp=cpp).problem
    # torch does not bind it.
    assert a_row(surface, "isInitialized", cpp=[("suite.test", "group->isInitialized()")]).problem == ""


def test_an_override_that_only_throws_is_a_problem(surface, monkeypatch):
    cpp, python = [("suite.test", "group->broadcast(tensors)")], [("file::test", "dist.broadcast(tensor, 0)")]
    for body in ('TORCH_CHECK(false, "no")', "\n  C10_THROW_ERROR(NotImplementedError, text);", 'throw Error("no");'):
        monkeypatch.setattr(surface, "body", lambda ours, name, body=body: body)
        assert "throws" in a_row(surface, "broadcast", cpp=cpp, python=python).problem
