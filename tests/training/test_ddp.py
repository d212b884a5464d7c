"""Two processes on the CPU (gloo), started by Lightning as a user starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import videonorm


@pytest.fixture(scope="module")
def record(recipe, videos, tmp_path_factory):
    """run.json of a run on two processes with one clip each, and a sixth, bad validation video."""
    folder = tmp_path_factory.mktemp("ddp")
    options = {
        "--model.backbone.init_args.norm": "videonorm.layers.SyncBatchNorm3d",
        "--data.source.init_args.val": videos.val_bad,
        "--data.batch_size": 1,
        "--trainer.accumulate_grad_batches": 2,
        "--trainer.max_steps": 3,
        "--trainer.devices": 2,
        "--trainer.strategy": "ddp",
        "--trainer.default_root_dir": folder,
    }
    flat = [str(word) for pair in options.items() for word in pair]
    finished = subprocess.run(
        [sys.executable, "-m", "videonorm", "fit", "-c", str(recipe), *flat],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(videonorm.__file__).parents[1],
    )
    assert finished.returncode == 0, finished.stderr
    bad = (folder / "bad_videos.csv").read_text()
    return json.loads((folder / "run.json").read_text()) | {"bad": bad}


def test_five_batch_sizes(record):
    sizes = ("batch_size", "accumulate", "world_size", "global_batch", "statistics_batch", "frames_per_step")
    assert [record[name] for name in sizes] == [1, 2, 2, 4, 2, 16]
    assert record["lr"] == pytest.approx(3.2 * 4 / 256)
    # An epoch is five batches for each process; its third step has only one of them.
    assert record["status"] == "done" and record["step"] == 3 and record["clips_seen"] == 10
    assert record["norm"] == "SyncBatchNorm3d"


def test_every_video_is_scored_once(record):
    """Six videos of which one is bad, over two processes: five scores, and one process told the other."""
    assert record["val_videos"] == 5
    assert any(record["val_top1"] == pytest.approx(right / 5) for right in range(6))
    assert record["bad_videos"] == 1 and record["bad"].count("bad.mp4") == 1
