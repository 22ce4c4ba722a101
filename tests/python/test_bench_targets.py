"""The targets, in sizes that take no time: all are measured, and what is said and written of them. Never how fast."""

import json
import math
import sys

import pytest
import torch
from multirank import multirank
from processes import Job, launcher
from scripts import end
from torch_rmpi.bench.results import summarize
from torch_rmpi.bench.targets import catalogue, job, markdown, measured, report
from torch_rmpi.bench.targets.measured import Measured
from torch_rmpi.bench.targets.target import Goal
from torch_rmpi.bench.targets.transformer import Shape, Transformer, split

TARGETS = [sys.executable, "-m", "torch_rmpi.bench", "targets"]
QUICK = ["--quick", "--runs", "1", "--seconds", "0.01", "--rounds", "1"]


def targets(*arguments, folder):
    return end(Job([([*TARGETS, *arguments], {})], folder / "output.log", cwd=folder), limit=600)


def test_every_target_is_measured_and_written(tmp_path):
    (tmp_path / "page.md").write_text("# Page\n")
    ended = targets(*QUICK, "--json", "a.json", "--markdown", "page.md", "--plot", "a.png", folder=tmp_path)
    assert ended.code == 0, ended.output
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["quick"]
    assert set(content["machine"]) >= {"cpu", "cores", "kernel", "torch", "MPI"}
    lines = content["lines"]
    expected = [target for family in catalogue.FAMILIES for target in family.targets]
    assert sorted(line["what"] for line in lines) == sorted(target.what for target in expected)
    assert [line["id"] for line in lines] == sorted(line["id"] for line in lines)
    for line in lines:
        assert math.isfinite(line["value"]), line
        assert line["runs"] == [line["value"]]
        # Tiny sizes decide nothing.
        assert line["met"] is None
        assert line["what"] in ended.output
        assert line["detail"] in ended.output
    for family in content["families"].values():
        for result in family["results"]:
            assert 0 < result["median"] <= result["p99"] < math.inf
        assert all(math.isfinite(value) and value >= 0 for value in family["values"].values())
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("# Page\n")
    assert "(a.png)" in page
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")

    # The same from the file, without measuring again, in the place of the section that is there.
    ended = targets("--from", "a.json", "--markdown", "page.md", "--plot", "a.png", folder=tmp_path)
    assert ended.code == 0, ended.output
    assert (tmp_path / "page.md").read_text() == page


def test_wrong_arguments_are_one_line(tmp_path):
    for arguments, says in (
        (["--only", "S1,S99"], "'S99' is none of"),
        (["--runs", "0"], "'0' is not a positive number"),
        (["--from", "missing.json"], "missing.json does not hold results"),
    ):
        ended = targets(*arguments, folder=tmp_path)
        assert ended.code != 0
        assert says in ended.output, ended.output
        assert "Traceback" not in ended.output


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
    with pytest.raises(KeyError, match="was not measured"):
        middle.median("all_reduce", 4, "gloo")


def test_a_line_says_whether_its_target_is_met():
    latency = catalogue.family("latency")

    def line(*pairs, quick=False):
        runs = [
            Measured(
                [result(own), result(floor, "noop"), result(100, "gloo")], {"flight recorder": 1.0}, {"cores": "8"}
            )
            for own, floor in pairs
        ]
        made = report.make({"latency": runs}, [latency], ["S1"], quick)
        return made.lines[0], made

    met, made = line((10, 10), (12, 10), (100, 10))
    # The median of the ratios of each run.
    assert met.value == pytest.approx(1.2)
    assert (met.verdict, met.spread) == ("PASS", "1.00 to 10.00x")
    assert "1 of 1 met" in report.table(made)
    assert "this machine has 8" in report.about(made)
    assert line((14, 10))[0].verdict == "missed"
    assert line((14, 10), quick=True)[0].verdict == "-"
    assert Goal(10, at_least=True).met(10)
    assert not Goal(10, at_least=True).met(9.9)


def test_a_section_replaces_that_of_an_earlier_run(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{markdown.BEGIN}\nold\n{markdown.END}\n\nafter\n")
    made = report.Report({"cores": "2"}, 1, quick=False)
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
