"""The targets, in sizes that take no time: all are measured, and what is said and written of them. Never how fast."""

import json
import math
import signal
import sys
import time

import pytest
import torch
from multirank import multirank
from processes import Job, launcher
from scripts import LIMIT, end
from torch_rmpi.bench import groups
from torch_rmpi.bench.results import summarize
from torch_rmpi.bench.targets import (
    baseline,
    catalogue,
    command,
    job,
    markdown,
    measured,
    mpi_program,
    report,
    training,
)
from torch_rmpi.bench.targets.measured import Measured, NotMeasured
from torch_rmpi.bench.targets.target import Goal, Scale
from torch_rmpi.bench.targets.transformer import Shape, Transformer, split

TARGETS = [sys.executable, "-m", "torch_rmpi.bench", "targets"]
QUICK = ["--quick", "--runs", "1", "--seconds", "0.01", "--rounds", "1"]


def targets(*arguments, folder):
    return end(Job([([*TARGETS, *arguments], {})], folder / "output.log", cwd=folder), limit=180)


@pytest.mark.parametrize("family", catalogue.FAMILIES, ids=lambda family: family.name.replace(" ", "_"))
def test_every_target_is_measured_and_written(family, tmp_path):
    ids = sorted({target.id for target in family.targets})
    ended = targets(*QUICK, "--only", ",".join(ids), "--json", "a.json", folder=tmp_path)
    assert ended.code == 0, ended.output
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["scale"] == {"seconds": 0.01, "rounds": 1, "quick": True}
    assert set(content["machine"]) >= {"cpu", "cores", "kernel", "torch", "MPI"}
    lines = content["lines"]
    assert sorted(line["what"] for line in lines) == sorted(target.what for target in family.targets)
    assert [line["id"] for line in lines] == sorted(line["id"] for line in lines)
    for line in lines:
        assert math.isfinite(line["value"]), line
        assert line["runs"] == [line["value"]]
        # Tiny sizes decide nothing.
        assert line["met"] is None
        assert line["what"] in ended.output
        assert line["detail"] in ended.output
    assert set(content["families"]) == {family.name}
    taken = content["families"][family.name]
    for result in taken["results"]:
        assert 0 < result["median"] <= result["p99"] < math.inf
    assert all(math.isfinite(value) and value >= 0 for value in taken["values"].values())


def test_the_results_of_a_file_are_shown_and_written(tmp_path, capsys):
    families = [catalogue.family("mean of 2 ranks")]
    sizes = [
        summarize("all_reduce", "float32", size, name, 2, [size]) for size in (4, 1024) for name in ("rmpi", "gloo")
    ]
    runs = {"mean of 2 ranks": [Measured(sizes, machine={"cores": "2", "cpu": "one", "torch": "2"})]}
    made = report.gather(runs, Scale())
    assert report.judge(made, runs, families, ["S4"]) == {}
    made.save(tmp_path / "a.json")
    page, plot = tmp_path / "page.md", tmp_path / "a.png"
    page.write_text("# Page\n")
    arguments = ["--from", str(tmp_path / "a.json"), "--markdown", str(page), "--plot", str(plot)]
    assert command.main(arguments) == 0
    assert made.lines[0].detail in capsys.readouterr().out
    text = page.read_text()
    assert text.startswith("# Page\n")
    assert "(a.png)" in text
    assert plot.read_bytes().startswith(b"\x89PNG")
    # In the place of the section that is there.
    assert command.main(arguments) == 0
    assert page.read_text() == text


def test_wrong_arguments_are_one_line(tmp_path, capsys):
    marked, folder = tmp_path / "page.md", tmp_path / "missing"
    marked.write_text(f"{markdown.BEGIN}\n")
    for arguments, says in (
        (["--only", "S1,S99"], "'S99' is none of"),
        (["--runs", "0"], "'0' is not a positive number"),
        (["--from", str(folder)], "missing does not hold results"),
        # What could not be written is known before anything is measured.
        (["--json", str(folder / "a.json")], "a.json cannot be written"),
        (["--markdown", str(marked)], "only one of the marks"),
        (["--only", "S1", "--plot", str(tmp_path / "a.png")], "neither was measured"),
    ):
        with pytest.raises(SystemExit) as ended:
            command.main(arguments)
        assert ended.value.code not in (0, None)
        assert says in f"{ended.value}{capsys.readouterr().err}"


def test_one_that_is_named_twice_is_measured_once():
    assert command.parser().parse_args(["--only", "S4,S1,S4"]).only == ["S4", "S1"]


def test_the_environment_of_a_measurement_is_told():
    environment = {"TORCH_RMPI_B": "1 2", "OMPI_MCA_a": "x", "OMP_NUM_THREADS": "3", "HOME": "/"}
    assert job.settings(environment) == "OMPI_MCA_a=x TORCH_RMPI_B='1 2'"
    assert job.settings({"HOME": "/"}) == ""


def test_sigterm_leaves_nothing_behind(tmp_path):
    started = Job(
        [([*TARGETS, *QUICK, "--only", "S7"], {})], tmp_path / "output.log", cwd=tmp_path, TMPDIR=str(tmp_path)
    )
    limit = time.monotonic() + LIMIT
    while not list(tmp_path.glob("torch_rmpi-bench-*")) and started.running() and time.monotonic() < limit:
        time.sleep(0.02)
    started.signal(signal.SIGTERM, [started.processes[0].pid])
    ended = end(started)
    assert ended.code == 128 + signal.SIGTERM, ended.output
    assert not list(tmp_path.glob("torch_rmpi-bench-*"))


def test_a_failing_rank_is_heard(tmp_path):
    script = tmp_path / "fails.py"
    script.write_text("import os\nif os.environ['LOCAL_RANK'] == '1':\n    raise SystemExit('rank 1 says why')\n")
    with pytest.raises(job.JobFailed, match="rank 1 says why"):
        job.run([*launcher(2), str(script)], 60, lambda percent, text: None)


def test_a_job_that_does_not_end_is_ended():
    heard = []
    endless = "import sys; print('torch_rmpi.bench progress 7 all_reduce'); print('last words', flush=True); sys.stdin"
    endless += "; import threading; threading.Event().wait()"
    with pytest.raises(job.JobFailed, match=r"still ran after 6 s(.|\n)*last words$"):
        job.run([sys.executable, "-c", endless], 6, lambda percent, text: heard.append((percent, text)))
    assert heard == [(7, "all_reduce")]


def result(microseconds, backend="rmpi"):
    return summarize("all_reduce", "float32", 4, backend, 2, [1000 * microseconds])


def test_median_of_runs():
    runs = [
        Measured([result(time), result(2 * time, "noop")], {"tokens": time}, {"cores": "2"}) for time in (30, 10, 20)
    ]
    middle = measured.median(runs)
    assert middle.median("all_reduce", 4, "rmpi") == 20
    assert middle.median("all_reduce", 4, "noop") == 40
    assert middle.values == {"tokens": 20}
    assert middle.machine == {"cores": "2"}
    with pytest.raises(NotMeasured, match="with gloo was not measured"):
        middle.median("all_reduce", 4, "gloo")
    middle.require([("all_reduce", "float32", 4, "rmpi")])
    with pytest.raises(NotMeasured, match="'gloo'"):
        middle.require([("all_reduce", "float32", 4, "rmpi"), ("all_reduce", "float32", 4, "gloo")])


def test_a_result_of_another_job_is_not_taken(tmp_path):
    path = tmp_path / "measured.json"
    Measured([result(3)]).save(path, "latency")
    assert measured.load(path, "latency") == Measured([result(3)])
    with pytest.raises(NotMeasured, match="is of latency, not of idle"):
        measured.load(path, "idle")
    path.write_text("{")
    with pytest.raises(NotMeasured, match="have left no result"):
        measured.load(path, "latency")
    with pytest.raises(NotMeasured, match="have left no result"):
        measured.load(tmp_path / "missing", "latency")


def test_times_of_another_mpi_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(mpi_program, "library", lambda: "An MPI 1.0")
    path = tmp_path / "times.txt"
    path.write_text("library An MPI  1.0 \nbroadcast 4 3000 1000 2000\n")
    assert mpi_program.read(path, 2).median("broadcast", 4, mpi_program.MPI) == 2
    for text, says in (
        ("library An MPI 2.0\n", "runs with An MPI 2.0"),
        ("broadcast 4 1000\n", "has not said which MPI"),
        ("library An MPI 1.0\nbroadcast 4 1.5\n", "has not written its times"),
        ("library An MPI 1.0\nbroadcast 4\n", "has not written its times"),
    ):
        path.write_text(text)
        with pytest.raises(NotMeasured, match=says):
            mpi_program.read(path, 2)


def test_the_program_in_c_is_built_with_the_mpi_that_is_used(tmp_path):
    assert mpi_program.build(tmp_path).exists()


def test_the_group_that_does_nothing_moves_nothing():
    assert groups.offers("noop", "all_to_all")
    assert not groups.offers("noop", "all_gather")
    assert [groups.size("noop", op, 64) for op in ("all_reduce", "all_to_all")] == [64, 0]
    assert groups.size("gloo", "all_to_all", 64) == 64


def test_the_floor_is_that_of_the_operation():
    def timed(op, size, backend, microseconds):
        return summarize(op, "float32", size, backend, 2, [1000 * microseconds])

    times = [timed("all_reduce", 4, "noop", 6), timed("all_to_all", 8, "noop", 9)]
    times += [timed("all_reduce", 4, name, time) for name, time in (("rmpi", 9), (mpi_program.MPI, 2))]
    times += [timed("all_to_all", 8, name, time) for name, time in (("rmpi", 12), (mpi_program.MPI, 1))]
    target = next(target for target in baseline.FAMILY.targets if target.what.startswith("below 64 KiB"))
    # 12 - 9 - 1 of all_to_all, and 9 - 6 - 2 of all_reduce.
    assert target.value(Measured(times)) == 2
    assert target.detail(Measured(times)).startswith("all_to_all 8 B: rmpi 12.0 us, the floor 9.0 us")


def test_the_lead_over_mpi_in_c_is_also_told_with_the_floor():
    times = [
        summarize(op, "float32", 1 << 16, backend, 2, [1000 * microseconds])
        for op, each in (("all_reduce", (20, 8, 16)), ("broadcast", (14, 6, 7)))
        for backend, microseconds in zip(("rmpi", "noop", mpi_program.MPI), each, strict=True)
    ]
    alone, both = (target for target in baseline.FAMILY.targets if target.what.startswith("from 64 KiB up"))
    assert alone.value(Measured(times)) == pytest.approx(7 / 14)
    assert both.value(Measured(times)) == pytest.approx(13 / 14)
    assert both.detail(Measured(times)) == "broadcast 64 KiB: rmpi 14.0 us, MPI in C 7.0 us, the floor 6.0 us"


def test_the_number_of_tokens_follows_the_share_that_gloo_waits():
    # It waits for 40 %: nothing to change.
    assert training.next_tokens(48, silent=60, gloo=100) == 48
    # 40 are 40 % of a step in which 60 are computed.
    assert training.next_tokens(48, silent=30, gloo=70) == 96
    assert training.next_tokens(48, silent=120, gloo=160) == 24
    assert training.next_tokens(48, silent=101, gloo=100) == 4
    assert training.next_tokens(48, silent=1, gloo=10**6) == 4096


def test_a_step_with_another_share_is_not_judged():
    def line(*silent):
        values = {"rmpi": 70.0, "gloo": 100.0, "tokens": 48.0, "parameters": 5e7}
        runs = {"training": [Measured(values=values | {"silent": each}) for each in silent]}
        made = report.gather(runs, Scale())
        assert report.judge(made, runs, [training.FAMILY], ["S9"]) == {}
        return made.lines[0]

    assert line(60.0, 56.0).verdict == "PASS"
    easier = line(60.0, 50.0)
    assert easier.verdict == "-"
    assert "not judged: Gloo waits for 50 %" in easier.detail
    # To be as much faster is more where there is less to gain.
    assert line(60.0, 66.0).verdict == "PASS"


def test_a_goal_that_is_missed_where_it_is_hard_to_meet_is_not_judged():
    def verdict(silent):
        values = {"rmpi": 90.0, "gloo": 100.0, "silent": silent, "tokens": 48.0, "parameters": 5e7}
        runs = {"training": [Measured(values=values)]}
        made = report.gather(runs, Scale())
        assert report.judge(made, runs, [training.FAMILY], ["S9"]) == {}
        return made.lines[0].verdict

    assert [verdict(silent) for silent in (50.0, 60.0, 80.0)] == ["missed", "missed", "-"]


def test_a_family_that_cannot_be_judged_does_not_take_the_others_along():
    families = [catalogue.family(name) for name in ("latency", "mean of 2 ranks")]
    times = [result(10), result(10, "noop"), result(100, "gloo")]
    runs = {"latency": [Measured(times, {"flight recorder": 1.0})], "mean of 2 ranks": [Measured()]}
    made = report.gather(runs, Scale())
    failures = report.judge(made, runs, families, ["S1", "S4"])
    assert failures == {"mean of 2 ranks": "nothing was measured with both backends"}
    assert [line.id for line in made.lines] == ["S1"]


def test_a_line_says_whether_its_target_is_met():
    latency = catalogue.family("latency")

    def line(*pairs, quick=False):
        runs = [
            Measured(
                [result(own), result(floor, "noop"), result(100, "gloo")], {"flight recorder": 1.0}, {"cores": "8"}
            )
            for own, floor in pairs
        ]
        made = report.gather({"latency": runs}, Scale(quick=quick))
        assert report.judge(made, {"latency": runs}, [latency], ["S1"]) == {}
        return made.lines[0], made

    met, made = line((10, 10), (12, 10), (100, 10))
    # The median of the ratios of each run.
    assert met.value == pytest.approx(1.2)
    assert (met.verdict, met.spread) == ("PASS", "1.00 to 10.00x")
    assert "1 of 1 met" in report.table(made)
    assert "this machine has 8" in report.about(made)
    assert line((14, 10))[0].verdict == "missed"
    # Enough digits to see on which side of the goal it is.
    missed, _ = line((13.004, 10))
    assert (missed.verdict, missed.number(missed.value)) == ("missed", "1.3004x")
    assert line((14, 10), quick=True)[0].verdict == "-"
    assert Goal(10, at_least=True).met(10)
    assert not Goal(10, at_least=True).met(9.9)


def test_a_section_replaces_that_of_an_earlier_run(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{markdown.BEGIN}\nold\n{markdown.END}\n\nafter\n")
    made = report.Report({"cores": "2"}, 1, Scale())
    markdown.write(made, page, tmp_path / "pictures" / "plot.png")
    text = page.read_text()
    assert text.startswith("before\n\n")
    assert text.endswith("\n\nafter\n")
    assert "old" not in text
    assert "(pictures/plot.png)" in text
    page.write_text(f"{markdown.BEGIN}\n")
    with pytest.raises(SystemExit, match="only one of the marks"):
        markdown.write(made, page, None)


@multirank(1, 2, 4)
def test_a_split_transformer_computes_what_the_whole_one_does(ctx):
    torch.manual_seed(3)
    shape = Shape(vocabulary=24, width=16, heads=4, layers=2, longest=12)
    whole = Transformer(shape)
    part = split(whole, ctx.group)
    tokens = torch.randint(shape.vocabulary, (3, 10), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = whole(tokens)
        torch.testing.assert_close(part(tokens), expected)
        # The first four at once, the rest one by one.
        cache = part.cache(len(tokens))
        pieces = [part(tokens[:, :4], cache)]
        pieces += [part(tokens[:, at : at + 1], cache, at) for at in range(4, 10)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), expected)
        with pytest.raises(ValueError, match="one at a time"):
            part(tokens[:, :2], cache, 4)
