import shutil

import numpy as np
import pytest

from videonorm.errors import UserError
from videonorm.sweep.cells import cells_of
from videonorm.sweep.comparisons import Comparisons, holm
from videonorm.sweep.convergence import convergence, target_top1
from videonorm.sweep.scores import Views, gather, read_scores


def write(folder, top1, paths=None, **more):
    top1 = np.atleast_2d(np.array(top1, np.float32))
    paths = paths or [f"{i}.mp4" for i in range(top1.shape[1])]
    views = {name: np.full(len(top1), 2) for name in Views._fields}
    folder.mkdir(parents=True, exist_ok=True)
    label = np.arange(len(paths))
    np.savez(folder / "scores.npz", path=np.array(paths), label=label, **{**views, "top1": top1, **more})


def test_scores_outlive_the_run_folders(tmp_path, result):
    rows = [result("bn", 4, 2, 0.5), result("gn", 4, 2, 0.75), result("gn", 8, 2, None)]
    write(tmp_path / rows[0].run, [[1, 1, 0, 0], [1, 1, 1, np.nan]])
    write(tmp_path / rows[1].run, [[1, 1, 1, 0]])
    gathered = gather(tmp_path, rows)
    assert gathered.runs[rows[0].run].tests == (Views(2, 2, 2, 2),) * 2
    written = (tmp_path / "scores.npz").stat().st_mtime_ns
    gather(tmp_path, rows)
    assert (tmp_path / "scores.npz").stat().st_mtime_ns == written
    shutil.rmtree(tmp_path / rows[0].run)
    kept = gather(tmp_path, rows)
    assert list(kept.runs) == [rows[0].run, rows[1].run]
    np.testing.assert_array_equal(kept.runs[rows[0].run].top1, [[1, 1, 0, 0], [1, 1, 1, np.nan]])
    assert kept.path.tolist() == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]


def test_videos_are_told_by_path_and_segment(tmp_path, result):
    rows = [result("bn", 4, 2, 2 / 3), result("gn", 4, 2, 1 / 3)]
    write(tmp_path / rows[0].run, [[1, 0, 1]], ["a", "a", "b"])
    write(tmp_path / rows[1].run, [[1, 0, 0]], ["b", "c", "a"])
    scores = read_scores(tmp_path, rows)
    assert scores.path.tolist() == ["a", "a", "b", "c"]
    np.testing.assert_array_equal(scores.runs[rows[1].run].top1, [[0, np.nan, 1, 0]])
    comparisons = Comparisons(cells_of(rows), scores)
    assert (comparisons.num_videos, comparisons.left_out) == (2, 2)


def test_where_the_videos_lie_on_a_machine_tells_nothing(tmp_path, result):
    rows = [result("bn", 4, 2, 0.5), result("gn", 4, 2, 0.5)]
    write(tmp_path / rows[0].run, [[1, 0]], ["/data/k400/a/x.mp4", "/data/k400/b/x.mp4"])
    write(tmp_path / rows[1].run, [[1, 0]], ["s3://bucket/a/x.mp4", "s3://bucket/b/x.mp4"])
    for _ in range(2):
        assert gather(tmp_path, rows).path.tolist() == ["a/x.mp4", "b/x.mp4"]


def test_scores_of_another_training_are_left_out(tmp_path, result):
    row = result("bn", 4, 2, 0.75)
    write(tmp_path / row.run, [[1, 1, 0, 0]])
    scores = read_scores(tmp_path, [row])
    assert not scores.runs
    assert Comparisons(cells_of([row]), scores).unpaired


def test_a_damaged_file_is_named(tmp_path, result):
    row = result("bn", 4, 2, 0.5)
    write(tmp_path / row.run, [[1, 0]], num_clips=np.array([1, 2]))
    with pytest.raises(UserError, match=r"scores \(.*scores.npz\) must be as videonorm writes them"):
        read_scores(tmp_path, [row])
    (tmp_path / row.run / "scores.npz").write_bytes(b"half of")
    with pytest.raises(UserError, match=r"scores \(.*scores.npz\) must be as videonorm writes them"):
        read_scores(tmp_path, [row])


def test_the_same_videos_tell_apart_what_the_top1_alone_cannot(tmp_path, result):
    right = np.arange(400) < 300
    better = np.arange(400) < 312
    rows = [result("bn", 4, 2, right.mean()), result("gn", 4, 2, better.mean())]
    for row, top1 in zip(rows, (right, better), strict=True):
        write(tmp_path / row.run, [top1])
    cells = cells_of(rows)
    assert not Comparisons(cells).rivals(cells[1], cells)[0].is_told_apart
    (rival,) = Comparisons(cells, read_scores(tmp_path, rows)).rivals(cells[1], cells)
    assert rival.is_told_apart and rival.lead.value == pytest.approx(0.03)


def test_holms_correction():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_what_a_stated_accuracy_costs(result):
    rows = [result("gn", 4, 2, 0.9, seed=seed) for seed in range(3)] + [result("bn", 4, 2, 0.5)]
    steps = np.array([2.0, 5.0, 10.0])
    tops = [[0.3, 0.85, 0.9], [0.85, 0.8, 0.9], [0.1, 0.2, 0.3]]
    curves = {row.run: {"val/top1": (steps, np.array(of))} for row, of in zip(rows, tops, strict=False)}
    curves[rows[3].run] = {"val/top1": (steps, np.array([0.2, 0.3, 0.5]))}
    cells = cells_of(rows)
    target = target_top1(cells)
    assert target == pytest.approx(0.125 + 0.9 * 0.775)
    gn, bn = convergence(cells, curves, target)
    assert (gn.reached, len(gn.costs), bn.reached) == (2, 3, 0)
    assert (gn.median("steps"), gn.median("seconds"), gn.median("clips")) == (5.0, 30.0, 10.0)
    assert bn.median("steps") is None
