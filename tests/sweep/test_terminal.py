import io

import pytest
from rich.console import Console

from videonorm.sweep.plan import read_plan
from videonorm.sweep.records import RunFolder
from videonorm.sweep.terminal import SweepDisplay, plan_table


def text_of(renderable) -> str:
    console = Console(width=120, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


@pytest.fixture
def runs(sweep_file, tmp_path):
    return [RunFolder(tmp_path / "out" / run.name, run) for run in read_plan(sweep_file, num_seeds=2).runs]


def test_a_terminal_sees_a_table_that_fills(runs):
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system=None)
    with SweepDisplay(runs, console) as display:
        runs[0].status, runs[0].recorded = "done", {"val_top1": 0.625, "clips_seen": 1280}
        runs[1].status, runs[1].recorded = "running", {"step": 5}
        runs[2].status, runs[2].error = "failed", "no"
        runs[3].status, runs[3].recorded = "done", {"val_top1": 0.25}
        display.changed(runs[3])
    last = console.file.getvalue().split("┏")[-1]
    assert "62.5\u00a0% 1/2 ━━━━━━  50 %" in last
    assert "│ 1,280 │" in " ".join(last.split())
    assert "25.0\u00a0% 1/2 1 failed" in last
    assert last.count("waiting") == 2
    assert "44 % · 3 of 8 runs" in last  # (3 + 0.5) / 8 of the frames


def test_values_of_further_axes_have_rows_of_their_own(sweep_file, tmp_path):
    sweep_file.write_text(sweep_file.read_text() + "axes: {data.crop_size: [32, 64]}\n")
    runs = [RunFolder(tmp_path / run.name, run) for run in read_plan(sweep_file).runs]
    for folder, top1 in zip(runs, (0.5, 0.75), strict=False):
        folder.status, folder.recorded = "done", {"val_top1": top1}
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system=None)
    with SweepDisplay(runs, console):
        pass
    last = " ".join(console.file.getvalue().split("┏")[-1].split())
    assert (
        "crop_size" in last and "│ 4 x 2 │ 4 │ 32 │ │ 50.0" in last and "│ 4 x 2 │ 4 │ 64 │ │ waiting" in last
    )


def test_a_log_gets_a_line_a_change(runs):
    console = Console(width=40, file=io.StringIO())
    with SweepDisplay(runs, console) as display:
        runs[0].status = "running"
        display.changed(runs[0], "started")
        runs[0].status = "done"
        runs[0].recorded = {"val_top1": 0.625, "clips_per_second": 9.0, "clips_seen": 1280}
        display.changed(runs[0])
        runs[1].status, runs[1].error = "failed", "a long [sentence] that is not broken into two lines"
        display.changed(runs[1])
    assert console.file.getvalue().splitlines() == [
        "started bn_4x2_b4_s0",
        "done    bn_4x2_b4_s0  top-1 62.5\u00a0%  1,280 clips  9.0 clips/s  (1 of 8)",
        "failed  bn_4x2_b4_s1  a long [sentence] that is not broken into two lines  (2 of 8)",
    ]


def test_the_plan_as_a_table(sweep_file):
    text = text_of(plan_table(read_plan(sweep_file).runs))
    assert "gn-ws_8x2_b2_s0" in text and "frames a step" in text
