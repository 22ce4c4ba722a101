"""The benchmark, on sizes that take no time: what it prints and writes."""

import json
import sys

import pytest
from processes import Job
from scripts import end

BENCH = [sys.executable, "-m", "torch_rmpi.bench", "--seconds", "0.01", "--rounds", "2"]


def bench(*arguments, folder):
    return end(Job([([*BENCH, *arguments], {})], folder / "output.log", cwd=folder), limit=180)


def test_table_json_plot_and_comparison(tmp_path):
    ended = bench(
        *("--ops", "all", "--sizes", "4,3K", "--dtypes", "float32,bfloat16", "--json", "a.json", "--plot", "a.png"),
        folder=tmp_path,
    )
    assert ended.code == 0, ended.output
    assert "all_reduce float32" in ended.output
    assert "geometric mean of gloo / rmpi" in ended.output
    report = json.loads((tmp_path / "a.json").read_text())
    results = {(r["op"], r["dtype"], r["bytes"], r["backend"]): r for r in report["results"]}
    for op in (
        "all_reduce",
        "reduce",
        "broadcast",
        "all_gather",
        "reduce_scatter",
        "gather",
        "scatter",
        "all_to_all",
        "sendrecv",
        "barrier",
    ):
        for dtype in ("float32", "bfloat16"):
            for size in (8 if (op, dtype) == ("all_to_all", "float32") else 4, 3072):
                result = results[op, dtype, size, "rmpi"]
                assert 0 < result["median"] <= result["p99"]
    twice = results["all_reduce", "float32", 3072, "rmpi"]
    assert twice["algbw"] == pytest.approx(3072 / twice["median"] / 1e3)
    assert twice["busbw"] == pytest.approx(twice["algbw"])
    # What was asked for as 4 bytes: one element for each of two ranks.
    assert ("all_to_all", "float32", 8, "rmpi") in results
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")

    ended = bench("--ops", "all_reduce", "--sizes", "4", "--backends", "rmpi", "--compare", "a.json", folder=tmp_path)
    assert ended.code == 0, ended.output
    assert "new / old" in ended.output


def test_wrong_arguments_are_one_line(tmp_path):
    for arguments, says in (
        (["--ops", "all_reduce,nothing"], "'nothing' is none of"),
        (["--sizes", "4,x"], "'x' is not a size"),
        (["-n", "1"], "fewer than 2 ranks"),
        (["--compare", "missing.json"], "missing.json does not hold results"),
        (["--rounds", "0"], "'0' is not a positive number"),
    ):
        ended = bench(*arguments, folder=tmp_path)
        assert ended.code != 0
        assert says in ended.output, ended.output
        assert "Traceback" not in ended.output
