import csv
from pathlib import Path

import pytest

import videonorm
from videonorm.errors import UserError
from videonorm.sweep.results import COLUMNS, read_results, write_results

DOCUMENTED = (
    "run,norm,conv,num_frames,frame_stride,batch_size,accumulate,frames_per_step,seed,"
    "global_batch,statistics_batch,lr,schedule,warmup_steps,steps,epochs,clips_seen,frames_seen,"
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


def test_an_axis_that_a_run_has_not_is_none_of_it(tmp_path, result):
    rows = [result("bn", 4, 16, 0.5, axes={"model.a": "1"}), result("gn", 4, 16, 0.5, axes={"model.b": "2"})]
    write_results(tmp_path / "results.csv", rows)
    assert read_results(tmp_path / "results.csv") == rows


@pytest.mark.parametrize(
    "text",
    [
        "=cmd|' /C calc'!A0",
        "+1+1",
        "-1 is no label",
        "@SUM(A1)",
        "\tx",
        "'=1",
        "''-1",
        "'quoted'",
        "a=1",
    ],
)
def test_no_spreadsheet_computes_what_a_run_says(text, tmp_path, result):
    row = result("bn", 4, 2, None, error=text, lr=-1.0)
    write_results(tmp_path / "results.csv", [row])
    with (tmp_path / "results.csv").open(newline="") as file:
        (fields,) = csv.DictReader(file)
    assert not fields["error"].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert fields["lr"] == "-1.0"  # a number stays one
    assert read_results(tmp_path / "results.csv") == [row]


@pytest.mark.parametrize(
    "column, text", [("val_loss", "nan"), ("val_loss", ""), ("val_top1", "inf"), ("val_top1", "")]
)
def test_a_row_without_a_finite_score_is_failed(column, text, tmp_path, result):
    write_results(tmp_path / "results.csv", [result("bn", 4, 2, 0.123456, val_loss=9.87654)])
    kept = (tmp_path / "results.csv").read_text()
    (tmp_path / "results.csv").write_text(
        kept.replace({"val_top1": "0.123456", "val_loss": "9.87654"}[column], text)
    )
    (row,) = read_results(tmp_path / "results.csv")
    assert not row.done and row.error.startswith(f"{column} (null) must be a finite number")


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
