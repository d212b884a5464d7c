"""A run's number for a claim, out of its row, a recorder's table and its metrics."""

import json

import pytest

from videonorm.errors import UserError
from videonorm.study.contrasts import Grid
from videonorm.study.measured import Measured
from videonorm.study.measures import measure, of_run
from videonorm.study.study_file import Measure

DEPTHS = "step,block,slope\n0,a,1.0\n0,b,3.0\n0,c,8.0\n5,a,2.0\n5,b,inf\n"
METRICS = "step,epoch,train/loss\n0,0,2.0\n4,0,\n9,0,1.0\n19,1,0.5\n"


@pytest.fixture
def number(result, tmp_path):
    """Of a run with both tables."""
    (tmp_path / "depths.csv").write_text(DEPTHS)
    (tmp_path / "metrics.csv").write_text(METRICS)
    (tmp_path / "run.json").write_text(json.dumps({"total_steps": 40}))

    def find(top1=0.5, error=None, **of):
        return of_run(Measure(**of), tmp_path, result("bn", 8, 2, top1, error=error))

    return find


DIVERGED = {"top1": None, "error": "val_loss (null) must be a finite number: the run has diverged"}
KILLED = {"top1": None, "error": "killed by SIGKILL"}


def test_a_column_of_a_table_at_a_step(number):
    slope = {"table": "depths", "column": "slope"}
    assert number(**slope, step="first") == (4.0, False)
    assert number(**slope, step="first", over="median") == (3.0, False)
    assert number(**slope, step=0, over="max") == (8.0, False)
    assert number(**slope, where={"block": "a"}) == (2.0, False)
    assert number(**slope) is None  # not finite
    assert number(**slope, step=3) is None and number(table="other", column="slope") is None


def test_logarithms(number):
    slope = {"table": "depths", "column": "slope", "step": "first", "log10": True}
    assert number(**slope, over="max") == (pytest.approx(0.90309), False)
    assert number(column="val_loss", log10=True) == (pytest.approx(-0.30103), False)
    assert number(column="val_top1", log10=True, top1=0.0) is None


def test_what_a_run_recorded_before_it_failed_counts(number):
    slope = {"table": "depths", "column": "slope"}
    assert number(**slope, step="first", **DIVERGED) == (4.0, False)
    assert number(**slope, where={"block": "a"}, **DIVERGED) is None
    assert number(column="val_loss") == (0.5, False) and number(column="val_loss", **KILLED) is None


def test_a_run_is_stable_or_diverges_or_says_nothing(number):
    assert number(largest="lr") == (1.0, False)
    assert number(largest="lr", **DIVERGED) == (0.0, False)
    assert number(largest="lr", **KILLED) is None


def test_steps_to_a_target_are_censored_at_the_budget(number):
    loss = {"column": "train/loss"}
    assert number(**loss, time_to=1.0) == (10.0, False)
    assert number(**loss, time_to=2.5, side="above") == (10.0, True)  # its row says 10 steps
    assert number(**loss, time_to=0.1, **DIVERGED) == (40.0, True)
    assert number(**loss, time_to=0.1, **KILLED) is None


def test_a_table_of_something_else_is_one_sentence(number, tmp_path):
    (tmp_path / "other.csv").write_text("step,slope\nlast,2\n")
    with pytest.raises(UserError, match=r"other.*csv\) must be a table of numbers with the column step"):
        number(table="other", column="slope")
    (tmp_path / "metrics.csv").write_text("epoch,train/loss\n0,2\n")
    with pytest.raises(UserError, match=r"metrics.csv\) must be a table of numbers with the column step"):
        number(column="train/loss", time_to=1.0)


def test_runs_whose_folders_are_gone_keep_their_numbers(claimed, result, tmp_path):
    claim = {"measure": {"table": "depths", "column": "slope", "step": "first"}}
    study = claimed(claim)
    rows = [result(arm, 8, 2, 0.5, run=f"{arm}_s0") for arm in ("bn", "gn_ws")]
    places = [
        {"norm": row.norm, "num_frames": 8, "frame_stride": 1, "batch_size": 2, "axes": {}} for row in rows
    ]
    (tmp_path / "bn_s0").mkdir()
    (tmp_path / "bn_s0" / "depths.csv").write_text(DEPTHS)
    before = [Measured("S1", "bn_s0", 7.0), Measured("S1", "gn_ws_s0", 7.0)]
    found = measure(study, Grid((), places), tmp_path, rows, before)
    assert found == [Measured("S1", "bn_s0", 4.0), Measured("S1", "gn_ws_s0", 7.0)]
