import io

import pytest
from rich.console import Console

from videonorm.sweep.cells import cells_of
from videonorm.sweep.plan import read_plan
from videonorm.sweep.terminal import RunState, SweepDisplay, plan_table, results_table


def text_of(renderable) -> str:
    console = Console(width=120, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


@pytest.fixture
def states(sweep_file):
    return [RunState(run) for run in read_plan(sweep_file, num_seeds=2).runs]


def test_progress_is_read_from_run_json(states):
    state = states[0]
    state.read({})
    assert state.fraction == 0.0
    state.read({"step": 5, "total_steps": 20, "val_top1": 0.5, "clips_per_second": 12.0})
    assert (state.fraction, state.top1, state.clips_per_second) == (0.25, 0.5, 12.0)
    state.read({"step": 5, "total_steps": None})
    assert state.fraction == 0.5  # of the plan's 10 steps


def test_a_terminal_sees_a_table_that_fills(states):
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system=None)
    with SweepDisplay(states, console) as display:
        states[0].status, states[0].top1 = "done", 0.625
        states[1].status, states[1].fraction = "running", 0.5
        states[2].status, states[2].error = "failed", "no"
        states[3].status, states[3].top1 = "done", 0.25
        display.changed(states[3])
    last = console.file.getvalue().split("┏")[-1]
    assert "62.5 % 1/2 ━━━━━━  50 %" in last
    assert "25.0 % 1/2 1 failed" in last
    assert last.count("waiting") == 2
    assert "44 % · 3 of 8 runs" in last  # (3 + 0.5) / 8 of the frames


def test_a_log_gets_a_line_a_change(states):
    console = Console(width=40, file=io.StringIO())
    with SweepDisplay(states, console) as display:
        states[0].status = "running"
        display.changed(states[0], "started")
        states[0].status, states[0].top1, states[0].clips_per_second = "done", 0.625, 9.0
        display.changed(states[0])
        states[1].status, states[1].error = "failed", "a long [sentence] that is not broken into two lines"
        display.changed(states[1])
    assert console.file.getvalue().splitlines() == [
        "started bn_4x2_b4_s0",
        "done    bn_4x2_b4_s0  top-1 62.5 %  9.0 clips/s  (1 of 8)",
        "failed  bn_4x2_b4_s1  a long [sentence] that is not broken into two lines  (2 of 8)",
    ]


def test_the_plan_as_a_table(sweep_file):
    text = text_of(plan_table(read_plan(sweep_file)))
    assert "gn-ws_8x2_b2_s0" in text and "frames a step" in text


def test_the_results_as_a_table(result):
    text = text_of(results_table(cells_of([result("bn", 4, 2, 0.93), result("gn", 4, 2, None)])))
    rows = [
        [part.strip() for part in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")
    ]
    assert rows == [
        ["bn", "4 x 1", "2", "93.0 %", "90.1 to 95.1", "25.0", "504", "1"],
        ["gn", "4 x 1", "2", "failed", "", "", "", "0 of 1"],
    ]
