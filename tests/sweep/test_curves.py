"""Learning curves of the runs of a sweep, from their metrics.csv."""

from pathlib import Path

import numpy as np
import pytest

from videonorm.errors import UserError
from videonorm.look import arm_colors
from videonorm.sweep.cells import cells_of
from videonorm.sweep.curves import read_curves, training_loss, validation_top1
from videonorm.sweep.results import Result


def log(folder: Path, row: Result, losses: list[object], top1: dict[int, object] | None = None) -> None:
    """Write the metrics.csv of a run that logged its loss at every step."""
    (folder / row.run).mkdir()
    lines = [f"{step},0,{loss},{(top1 or {}).get(step, '')}" for step, loss in enumerate(losses)]
    (folder / row.run / "metrics.csv").write_text("\n".join(["step,epoch,train/loss,val/top1", *lines, ""]))


def curves_of(figure, panel, color):
    """(x, y) of an arm's lines in a panel, the thick one last."""
    lines = [line for line in figure.axes[panel].lines if line.get_color() == color]
    return [line.get_xydata() for line in sorted(lines, key=lambda line: line.get_linewidth())]


def test_a_line_a_cell_against_the_clips_it_saw(tmp_path, result):
    rows = [result("bn", 4, 16, 0.5), result("gn", 4, 16, 0.6), result("gn", 8, 8, 0.7)]
    for number, row in enumerate(rows):
        log(tmp_path, row, [2.0 - number] * 10, {4: 0.25, 9: row.val_top1})
    cells, curves = cells_of(rows), read_curves(tmp_path, rows)
    figure = training_loss(cells, curves)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Training loss, T = 4, B = 16", "Training loss, T = 8, B = 8"]
    colors = arm_colors(["bn", "gn"])
    (line,) = curves_of(figure, 0, colors["gn"])
    assert line[:, 0] == pytest.approx(16 * np.arange(1, 11)) and line[:, 1] == pytest.approx(np.ones(10))
    assert [len(curves_of(figure, 1, colors[arm])) for arm in ("bn", "gn")] == [0, 1]
    assert figure.axes[0].get_xlabel() == "training clips seen"
    (line,) = curves_of(validation_top1(cells, curves), 1, colors["gn"])
    assert line.tolist() == [[40.0, 0.25], [80.0, 0.7]]


def test_seeds_are_thin_lines_and_their_mean_a_thick_one(tmp_path, result):
    rows = [result("gn", 4, 2, 0.5, seed=seed) for seed in (0, 1)]
    log(tmp_path, rows[0], [1.0] * 10)
    log(tmp_path, rows[1], [3.0] * 6)  # it logged no more
    cells, curves = cells_of(rows), read_curves(tmp_path, rows)
    *seeds, mean = curves_of(training_loss(cells, curves, phone=True), 0, arm_colors(["gn"])["gn"])
    assert sorted(len(seed) for seed in seeds) == [6, 10]
    assert mean[:, 1].tolist() == [2.0] * 6 and mean[-1, 0] == 12
    assert validation_top1(cells, curves) is None


def test_the_loss_is_averaged_over_a_twentieth(tmp_path, result):
    row = result("gn", 4, 2, 0.5, steps=40, clips_seen=None)
    log(tmp_path, row, [0.0, 2.0] * 20)
    figure = training_loss(cells_of([row]), read_curves(tmp_path, [row]))
    (line,) = curves_of(figure, 0, arm_colors(["gn"])["gn"])
    assert line[:, 1].tolist() == [1.0] * 39
    assert (line[0, 0], line[-1, 0], figure.axes[0].get_xlabel()) == (2.0, 40.0, "steps")


def test_what_has_failed_or_is_not_finite_is_in_no_curve(tmp_path, result):
    rows = [result("bn", 4, 2, None), result("gn", 4, 2, 0.5), result("ln", 4, 2, 0.5)]
    log(tmp_path, rows[0], [1.0] * 4)
    log(tmp_path, rows[1], [1.0, "nan", "inf", 0.5])
    curves = read_curves(tmp_path, rows)
    assert list(curves) == [rows[1].run]  # ln's folder is gone
    figure = training_loss(cells_of(rows), curves)
    (line,) = curves_of(figure, 0, arm_colors(["bn", "gn"])["gn"])
    assert line.tolist() == [[2.0, 1.0], [8.0, 0.5]]


def test_without_curves_there_is_no_figure(tmp_path, result):
    row = result("gn", 4, 2, 0.5)
    assert read_curves(tmp_path, [row]) == {}
    (tmp_path / row.run).mkdir()
    (tmp_path / row.run / "metrics.csv").write_text("step,epoch,own/loss\n0,0,1.0\n")
    assert training_loss(cells_of([row]), read_curves(tmp_path, [row])) is None


def test_a_table_that_no_fit_has_written_is_named(tmp_path, result):
    row = result("gn", 4, 2, 0.5)
    log(tmp_path, row, ["low"])
    with pytest.raises(UserError, match=r"metrics \(.*metrics.csv\) must be a table of numbers"):
        read_curves(tmp_path, [row])


def test_a_run_is_sought_in_the_sweeps_own_folder(tmp_path, result):
    (tmp_path / "out").mkdir()
    row = result("gn", 4, 2, 0.5)
    log(tmp_path, row, [1.0] * 3)
    outside = result("gn", 4, 2, 0.5, run=f"../{row.run}")
    assert read_curves(tmp_path / "out", [outside]) == {}
