"""Two processes on the CPU (gloo), started by Lightning as a user starts them."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import videonorm
from videonorm.training.cli import main


def run(command, recipe, options, timeout=200):
    flat = [str(word) for pair in options.items() for word in pair]
    finished = subprocess.run(
        [sys.executable, "-m", "videonorm", command, "-c", str(recipe), *flat],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(videonorm.__file__).parents[1],
    )
    assert finished.returncode == 0, finished.stderr


def run_here(command, recipe, options):
    """The same in this process, which has Lightning imported."""
    main([command, "-c", str(recipe), *(str(word) for option in options.items() for word in option)])


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
    run("fit", recipe, options)
    bad = (folder / "bad_videos.csv").read_text()
    return json.loads((folder / "run.json").read_text()) | {"bad": bad, "folder": folder}


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


@pytest.fixture(scope="module")
def judge(record, recipe, videos, tmp_path_factory):
    """Call it with a command, a number of processes and a folder: it judges 101 videos, which it returns."""
    source = tmp_path_factory.mktemp("all")
    rows = []
    for number in range(101):
        (source / f"{number}.mp4").symlink_to(videos.folder / f"{number % 15}.mp4")
        rows.append((f"{number}.mp4", number % 15 % 2))
    with open(source / "all.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])

    def run_on(command, devices, folder):
        options = {
            "--ckpt_path": record["folder"] / "checkpoints" / "last.ckpt",
            "--model.backbone.init_args.norm": "videonorm.layers.SyncBatchNorm3d",
            "--data.source.init_args.test": source / "all.csv",
            "--data.batch_size": 8,
            "--data.num_workers": 1,
            "--trainer.devices": devices,
            "--trainer.default_root_dir": folder,
        }
        if devices == 1:
            run_here(command, recipe, options)
        else:
            run(command, recipe, options | {"--trainer.strategy": "ddp"})
        return [name for name, _ in rows]

    return run_on


def predictions(folder):
    with open(folder / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_two_processes_score_each_of_101_videos_once(judge, tmp_path):
    """The same scores as one process gives, which has no share to even out."""
    judge("predict", 1, tmp_path / "alone")
    names = judge("predict", 2, tmp_path / "shared")
    alone, shared = predictions(tmp_path / "alone"), predictions(tmp_path / "shared")
    assert [Path(row["path"]).name for row in shared] == names
    assert [row["path"] for row in shared] == [row["path"] for row in alone]
    for ours, theirs in zip(shared, alone, strict=True):
        assert float(ours["0"]) == pytest.approx(float(theirs["0"]), abs=1e-5)


@pytest.mark.slow
def test_two_processes_test_each_of_101_videos_once(judge, tmp_path):
    """By the same table as above, whose mean every process has."""
    judge("predict", 1, tmp_path)
    judge("test", 2, tmp_path)
    result = json.loads((tmp_path / "test.json").read_text())
    right = sum(row["predicted"] == row["label"] for row in predictions(tmp_path))
    assert (result["videos"], result["top1"]) == (101, pytest.approx(right / 101))


@pytest.mark.slow
def test_two_processes_train_a_compiled_network(recipe, tmp_path):
    """With the losses of the network itself."""
    norm = {"class_path": "videonorm.layers.GroupNorm3d", "init_args": {"num_groups": 2}}
    losses = []
    for compile in ("null", "default"):
        options = {
            "--model.backbone.init_args.norm": json.dumps(norm),
            "--model.compile": compile,
            "--data.batch_size": 1,
            "--trainer.max_steps": 4,
            "--trainer.devices": 2,
            "--trainer.strategy": "ddp",
            "--trainer.default_root_dir": tmp_path / compile,
        }
        run("fit", recipe, options, timeout=600)
        with open(tmp_path / compile / "metrics.csv", newline="") as file:
            losses.append([float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]])
    assert len(losses[0]) == 4 and losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert json.loads((tmp_path / "default" / "run.json").read_text())["compile"] == "default"


@pytest.mark.slow
def test_two_processes_end_on_time_and_score_at_other_lengths(recipe, videos, tmp_path):
    """With the same step, or they would wait for each other; and every video once."""
    callbacks = [
        {"class_path": "videonorm.training.TimeBudget", "init_args": {"seconds": 2}},
        {
            "class_path": "videonorm.training.ScoreAtLengths",
            "init_args": {"views": [[2, 2, 2], [13, 1, 1], [13, 2, 1]]},
        },
    ]
    source = {
        "--model.backbone.init_args.norm": "videonorm.layers.SyncBatchNorm3d",
        "--data.source.init_args.val": videos.val_bad,
    }
    options = source | {
        "--trainer.callbacks": json.dumps(callbacks),
        "--trainer.max_steps": -1,
        "--trainer.max_epochs": -1,
        "--trainer.devices": 2,
        "--trainer.strategy": "ddp",
        "--trainer.default_root_dir": tmp_path,
    }
    run("fit", recipe, options)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "done" and record["train_seconds"] >= 2
    assert record["step"] == record["total_steps"] and record["clips_seen"] > 8
    longest = "a clip of 13 frames at frame_stride {} spans {}, and the longest video has 12"
    said = [view["error"] for view in record["views"]]
    assert said == [None, None, longest.format(1, 13), longest.format(2, 25)] and record["bad_videos"] == 1
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as file:
        found = dict(file)
    last = tmp_path / "checkpoints" / "last.ckpt"
    for row, clips in enumerate([(4, 1, 1), (2, 2, 2)]):
        view = zip(("num_frames", "frame_stride", "num_val_clips"), clips, strict=True)
        asked = {f"--data.{name}": value for name, value in view}
        run_here("validate", recipe, source | asked | {"--ckpt_path": last})
        with open(tmp_path / "validate.csv", newline="") as file:
            alone = {of["path"]: float(of["loss"] or "nan") for of in csv.DictReader(file)}
        assert list(alone) == found["path"].tolist()
        np.testing.assert_allclose(found["loss"][row], list(alone.values()), rtol=1e-4)
