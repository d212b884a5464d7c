from dataclasses import fields

import pytest

from videonorm.errors import UserError
from videonorm.sweep.results import COLUMNS, Result, is_tied, read_results, summarize, write_results

DOCUMENTED = (
    "run,norm,conv,num_frames,frame_stride,batch_size,accumulate,frames_per_step,seed,lr,steps,clips_seen,frames_seen,"
    "val_top1,val_top5,val_loss,train_seconds,clips_per_second,peak_memory_mib,status,"
    "val_videos,best_possible_top1,num_classes,error"
)


def test_columns(tmp_path):
    write_results(tmp_path / "results.csv", [])
    assert (tmp_path / "results.csv").read_text() == DOCUMENTED + "\n"
    assert list(COLUMNS) == [field.name for field in fields(Result)]


def test_a_table_is_read_as_it_was_written(tmp_path, result):
    rows = [
        result("bn", 4, 16, 0.1 + 0.2, lr=1e-4),
        result(
            "gn_ws",
            8,
            8,
            None,
            error='out of memory, "really"\nyes',
            val_videos=None,
            val_loss=None,
            steps=None,
        ),
    ]
    write_results(tmp_path / "results.csv", rows)
    assert read_results(tmp_path / "results.csv") == rows
    assert [file.name for file in tmp_path.iterdir()] == ["results.csv"]


def test_a_table_must_be_a_sweeps(tmp_path):
    with pytest.raises(UserError, match=r"results \(.*none.csv\) must be a readable file: No such file"):
        read_results(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("run,val_top1\na,0.5\n")
    with pytest.raises(UserError, match=r"results \(.*other.csv\) must have the columns of a sweep: 'norm'"):
        read_results(tmp_path / "other.csv")


def test_seeds_are_taken_together(result):
    rows = [
        result("gn", 8, 2, 0.5, seed=0, clips_per_second=10.0, peak_memory_mib=100.0),
        result("bn", 8, 2, 0.4),
        result("gn", 8, 2, 0.7, seed=1, clips_per_second=20.0, peak_memory_mib=300.0),
        result("gn", 8, 2, None, seed=2),
        result("gn", 4, 4, 0.2),
    ]
    first, second, third = summarize(rows)
    assert (first.norm, first.num_frames, first.batch_size) == ("gn", 4, 4)
    assert (second.norm, second.num_frames, third.norm) == ("gn", 8, "bn")
    assert second.top1.value == pytest.approx(0.6)
    assert second.top1_of_seed == {0: 0.5, 1: 0.7}
    assert (second.clips_per_second, second.peak_memory_mib) == (15.0, 300.0)
    assert (len(second.done), len(second.results)) == (2, 3)


def test_only_common_seeds_are_compared(result):
    gn, bn, other = summarize(
        [
            result("gn", 8, 2, 0.9, seed=0),
            result("gn", 8, 2, 0.1, seed=1),
            result("bn", 8, 2, 0.5, seed=0),
            result("ln", 8, 2, 0.5, seed=2),
        ]
    )
    assert gn.ahead_of(bn).value == pytest.approx(0.4)
    assert gn.ahead_of(other) is None


@pytest.mark.parametrize(
    "shapes, tied",
    [
        ([(4, 16), (8, 8), (16, 4)], True),
        ([(4, 16), (8, 16)], False),
        ([(4, 16), (4, 8)], False),
        ([(4, 16)], True),
    ],
)
def test_tied(result, shapes, tied):
    rows = [result(norm, length, size, 0.5) for norm in ("bn", "gn") for length, size in shapes]
    assert is_tied(summarize(rows)) is tied
