import csv

import pytest
import torch

from videonorm.errors import UserError
from videonorm.evaluation.checkpoint import read_checkpoint
from videonorm.training.run_folder import MetricsTable, WholeCheckpointIO


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_of_one_step_share_a_row(tmp_path):
    table = MetricsTable(tmp_path)
    table.log_metrics({"train/loss": 2.0, "epoch": 0}, step=4)
    table.log_metrics({"val/top1": 0.5}, step=4)
    table.log_metrics({"train/loss": 1.0, "epoch": 1}, step=9)
    table.save()
    assert rows_of(tmp_path / "metrics.csv") == [
        {"step": "4", "epoch": "0", "train/loss": "2.0", "val/top1": "0.5"},
        {"step": "9", "epoch": "1", "train/loss": "1.0", "val/top1": ""},
    ]


def test_resumed_metrics_take_the_place_of_those_after_the_checkpoint(tmp_path):
    first = MetricsTable(tmp_path)
    for step in range(4):
        first.log_metrics({"loss": float(step)}, step)
    first.finalize("failed")
    resumed = MetricsTable(tmp_path, resume=True)
    resumed.log_metrics({"loss": 20.0, "more": 1.0}, step=2)
    resumed.finalize("success")
    assert [row["loss"] for row in rows_of(tmp_path / "metrics.csv")] == ["0.0", "1.0", "20.0"]

    fresh = MetricsTable(tmp_path)
    fresh.log_metrics({"loss": 7.0}, step=9)
    fresh.save()
    assert [row["loss"] for row in rows_of(tmp_path / "metrics.csv")] == ["7.0"]


def test_checkpoint_round_trip(tmp_path):
    files = WholeCheckpointIO()
    checkpoint = {"state_dict": {"weight": torch.arange(3)}, "global_step": 3}
    files.save_checkpoint(checkpoint, tmp_path / "new" / "last.ckpt")
    loaded = files.load_checkpoint(tmp_path / "new" / "last.ckpt")
    torch.testing.assert_close(loaded["state_dict"]["weight"], torch.arange(3))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["last.ckpt"]


class Code:
    """What a checkpoint must not run."""

    def __reduce__(self):
        return print, ("code from a checkpoint ran",)


UNREADABLE = {
    "text": (lambda path: path.write_text("text"), "a checkpoint that torch can read"),
    "empty": (lambda path: path.touch(), "a checkpoint that torch can read"),
    "cut_off": (
        lambda path: (torch.save({"state_dict": {}}, path), path.write_bytes(path.read_bytes()[:-60])),
        "a checkpoint that torch can read",
    ),
    "code": (lambda path: torch.save({"state_dict": Code()}, path), "a checkpoint that torch can read"),
    "weights_only": (
        lambda path: torch.save({"weight": torch.zeros(1)}, path),
        "written by `videonorm fit`",
    ),
    "folder": (lambda path: path.mkdir(), "an existing file"),
}


@pytest.mark.parametrize("make, requirement", UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_checkpoint(tmp_path, capsys, make, requirement):
    path = tmp_path / "some.ckpt"
    make(path)
    with pytest.raises(UserError, match=rf"ckpt_path \(.*some.ckpt\) must be .*{requirement}"):
        read_checkpoint(path, "ckpt_path")
    assert not capsys.readouterr().out
