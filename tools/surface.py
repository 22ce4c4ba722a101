#!/usr/bin/env python3
"""Which virtual functions of torch's c10d classes this backend has, and which tests cover each.

    surface.py --bridge DIR [--write FILE | --check FILE]

Reads the headers of the installed torch and of this project with libclang, and the tests. Fails (exit status 1) if
torch has a virtual that is neither overridden nor listed in surface.toml with a reason, if an override only throws, or
if one has no test: a C++ one, and where torch binds the function, one through its Python API. `--write` writes the
table, too; `--check` only fails if the file is not that table.
"""

import argparse
import importlib.util
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from clang import cindex

ROOT = Path(__file__).resolve().parent.parent
KNOWN = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())

#: torch's classes, and ours over them: (ours, header of ours).
CLASSES = {
    "c10d::Backend": ("rmpi::ProcessGroupRMPI", "include/torch_rmpi/process_group_rmpi.hpp"),
    "c10d::Backend::Options": ("rmpi::ProcessGroupRMPI::Options", "include/torch_rmpi/process_group_rmpi.hpp"),
    "c10d::Work": ("rmpi::WorkRMPI", "cpp/work_rmpi.hpp"),
    "c10d::Window": ("rmpi::WindowRMPI", "cpp/window.hpp"),
}

_THROWS = re.compile(r"\s*(TORCH_CHECK(_\w+)?\(\s*false|C10_THROW_ERROR\(|throw\b)")


@dataclass
class Row:
    """One virtual of torch."""

    owner: str
    name: str
    where: str
    cpp: list[str]
    python: list[str]
    problem: str


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bridge", type=Path, required=True, help="the folder of the headers that cxx generates")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", type=Path)
    action.add_argument("--check", type=Path)
    arguments = parser.parse_args()

    headers = Path(importlib.util.find_spec("torch").submodule_search_locations[0]) / "include"
    rows = table(parse(headers, arguments.bridge))
    text = rendered(rows, torch_version(headers))
    problems = [f"{row.owner}::{row.name}: {row.problem}" for row in rows if row.problem]
    if arguments.check:
        stale = arguments.check.read_text() != text
        problems = [f"{arguments.check} is not what the headers and tests say: run `make surface`"] if stale else []
    elif arguments.write:
        arguments.write.write_text(text)
    else:
        print(text)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def parse(headers, bridge):
    """The translation unit that sees torch's classes and ours."""
    builtin = subprocess.check_output(["gcc", "-print-file-name=include"], text=True).strip()
    folders = [headers, headers / "torch/csrc/api/include", ROOT / "include", ROOT / "cpp", bridge, builtin]
    unit = cindex.Index.create().parse(
        "surface.cpp",
        args=["-x", "c++", "-std=c++20", *(f"-I{folder}" for folder in folders)],
        unsaved_files=[
            (
                "surface.cpp",
                "#include <torch/csrc/distributed/c10d/Backend.hpp>\n"
                "#include <torch_rmpi/process_group_rmpi.hpp>\n"
                '#include "work_rmpi.hpp"\n'
                '#include "window.hpp"\n',
            )
        ],
        options=cindex.TranslationUnit.PARSE_SKIP_FUNCTION_BODIES,
    )
    errors = [str(problem) for problem in unit.diagnostics if problem.severity >= cindex.Diagnostic.Error]
    if errors:
        sys.exit("cannot read the headers:\n" + "\n".join(errors[:10]))
    return unit


def torch_version(headers):
    text = (headers / "torch/headeronly/version.h").read_text()
    return ".".join(re.search(rf"#define TORCH_VERSION_{part} (\d+)", text)[1] for part in ("MAJOR", "MINOR", "PATCH"))


def table(unit):
    """A row for each virtual, in the order of torch's headers."""
    classes = found_classes(unit)
    tests = {"cpp": cpp_tests(), "python": python_tests()}
    rows = []
    for owner, (ours, header) in CLASSES.items():
        if owner not in classes:
            continue
        own = {method.spelling for method in methods(classes[ours])} if ours else set()
        for method in methods(classes[owner]):
            if not method.is_virtual_method() or method.kind == cindex.CursorKind.DESTRUCTOR:
                continue
            name = method.spelling
            # Reference counts of Python objects: final in torch.
            if any(child.kind == cindex.CursorKind.CXX_FINAL_ATTR for child in method.get_children()):
                continue
            rows.append(row(owner, name, ours, header, name in own, tests))
    return rows


def row(owner, name, ours, header, overridden, tests):
    if not overridden:
        reason = KNOWN["exceptions"].get(name)
        where = f"not needed: {reason}" if reason else "**missing**"
        return Row(owner, name, where, [], [], "" if reason else "neither overridden nor listed with a reason")
    definition = body(ours, name)
    problem = "the override only throws" if definition and _THROWS.match(definition) else ""
    call = re.compile(KNOWN["cpp"].get(name, rf"(->|\.){re.escape(name)}\("))
    cpp = [test for test, text in tests["cpp"] if call.search(text)]
    pattern = KNOWN["python"].get(name, "")
    python = [test for test, text in tests["python"] if pattern and re.search(pattern, text)]
    if not problem and not cpp:
        problem = "no test calls it from C++"
    if not problem and pattern is not False and not python:
        problem = "no test calls it from Python"
    return Row(owner, name, f"`{Path(header).name}`", cpp, python, problem)


def found_classes(unit):
    """Class name -> its definition, for those of CLASSES."""
    wanted = set(CLASSES) | {ours for ours, _ in CLASSES.values() if ours}
    found = {}
    pending = [unit.cursor]
    while pending:
        for cursor in pending.pop().get_children():
            if cursor.kind == cindex.CursorKind.NAMESPACE and cursor.spelling in ("c10d", "rmpi"):
                pending.append(cursor)
            elif (
                cursor.kind in (cindex.CursorKind.CLASS_DECL, cindex.CursorKind.STRUCT_DECL) and cursor.is_definition()
            ):
                name = cursor.type.spelling
                if name in wanted:
                    found[name] = cursor
                    pending.append(cursor)
    return found


def methods(definition):
    return [cursor for cursor in definition.get_children() if cursor.kind == cindex.CursorKind.CXX_METHOD]


def body(ours, name):
    """What stands between the braces of the definition in cpp/, or nothing."""
    short = ours.removeprefix("rmpi::")
    start = re.compile(rf"\b{re.escape(short)}::(?:{name}|TORCH_RMPI_{name.upper()})\([^;{{]*\{{")
    for source in sorted((ROOT / "cpp").glob("*.cpp")):
        text = source.read_text()
        if found := start.search(text):
            return text[found.end() :]
    return ""


def cpp_tests():
    """(name, text) of each C++ test, and of what is around the tests of its file."""
    tests = []
    for source in sorted((ROOT / "tests/cpp").glob("test_*.cpp")):
        parts = re.split(r"^RMPI_TEST\((\w+), (\w+)\)", source.read_text(), flags=re.MULTILINE)
        for suite, name, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            tests.append((f"{suite}.{name}", text))
        tests.append((f"{source.stem} (helpers)", parts[0]))
    return tests


def python_tests():
    """(name, text) of each Python test, and of what is around the tests of its file."""
    tests = []
    for source in sorted((ROOT / "tests/python").glob("test_*.py")):
        parts = re.split(r"^def (test_\w+)", source.read_text(), flags=re.MULTILINE)
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            tests.append((f"{source.stem}::{name}", text))
        tests.append((f"{source.stem} (helpers)", parts[0]))
    return tests


def rendered(rows, version):
    lines = [
        "# Virtual functions of c10d",
        "",
        f"What torch {version} lets a backend override, and what this one does. Written by `make surface`, which fails",
        "when a function is missing or has no test.",
        "",
    ]
    for owner in CLASSES:
        lines += [f"## `{owner}`", "", "| Function | Here | C++ tests | Python tests |", "|---|---|---|---|"]
        lines += [
            f"| `{row.name}` | {row.where} | {summary(row.cpp)} | {summary(row.python)} |"
            for row in rows
            if row.owner == owner
        ]
        lines.append("")
    return "\n".join(lines)


def summary(tests):
    if not tests:
        return "-"
    return f"`{tests[0]}`"


if __name__ == "__main__":
    sys.exit(main())
