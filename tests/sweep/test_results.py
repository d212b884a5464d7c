from pathlib import Path

import pytest

import videonorm
from videonorm.errors import UserError
from videonorm.sweep.results import COLUMNS, read_results, write_results

DOCUMENTED = (
    "run,norm,conv,num_frames,frame_stride,batch_size,accumulate,frames_per_step,seed,lr,steps,clips_seen,frames_seen,"
    "val_top1,val_top5,val_loss,train_seconds,clips_per_second,peak_memory_mib,status,"
    "val_videos,best_possible_top1,num_classes,error"
)


def test_columns(tmp_path):
    write_results(tmp_path / "results.csv", [])
    assert (tmp_path / "results.csv").read_text() == DOCUMENTED + "\n"
    assert list(COLUMNS) == DOCUMENTED.split(",")
    assert all(of.metadata["description"] for of in COLUMNS.values())


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


def test_the_committed_table_is_read(tmp_path):
    committed = Path(videonorm.__file__).parent / "sweep" / "quickstart" / "results.csv"
    write_results(tmp_path / "results.csv", read_results(committed))
    assert (tmp_path / "results.csv").read_text() == committed.read_text()
