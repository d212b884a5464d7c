"""The commands, run as a user runs them on a tiny data set."""

import csv
import json
import os
import shutil
from importlib.metadata import version

import jsonargparse
import pytest
import torch
import yaml

from videonorm.errors import UserError
from videonorm.training.classifier import VideoClassifier
from videonorm.training.cli import default_run_folder, main


def run(command, recipe, folder, *options):
    main([command, "-c", str(recipe), "--trainer.default_root_dir", str(folder), *map(str, options)])


def read_json(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    run("fit", recipe, folder)
    return folder


def test_run_folder(trained):
    names = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("tensorboard/")}
    assert names - events == {
        ".lock",
        "config.yaml",
        "metrics.csv",
        "run.json",
        "val.csv",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
    }
    assert any("events.out.tfevents" in name for name in events)


def test_record(trained):
    record = read_json(trained / "run.json")
    expected = {
        "status": "done",
        "error": None,
        "norm": "BatchNorm3d",
        "conv": "Conv3d",
        "num_frames": 4,
        "frame_stride": 1,
        "frames_per_second": None,
        "held_out": 0.0,
        "batch_size": 2,
        "accumulate": 1,
        "world_size": 1,
        "global_batch": 2,
        "statistics_batch": 2,
        "frames_per_step": 8,
        "seed": 0,
        "lr": pytest.approx(3.2 * 2 / 256),
        "schedule": "WarmupCosine(warmup=0.1, start=0.1, final=0.0)",
        "warmup_steps": 1,
        "best_possible_top1": None,
        "step": 8,
        "steps": 8,
        "total_steps": 8,
        "clips_seen": 16,
        "frames_seen": 64,
        "val_videos": 5,
        "val_top5": 1.0,
        "bad_videos": 0,
    }
    assert {name: record[name] for name in expected} == expected
    assert record["val_top1"] in [n / 5 for n in range(6)] and record["val_loss"] > 0
    assert record["train_seconds"] > 0 and record["clips_per_second"] > 0 and record["peak_memory_mib"] > 10
    assert record["machine"]["device"] == "cpu" and record["versions"]["torch"] == version("torch")


def test_metrics_have_one_row_a_step_and_follow_the_schedule(trained):
    with open(trained / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [*range(8), 8]  # the last one is the final validation
    rates = [float(row["train/lr"]) for row in rows[:8]]
    assert (
        rates[0] == pytest.approx(0.1 * 0.025)
        and max(rates) == rates[1]
        and rates[1:] == sorted(rates[1:])[::-1]
    )
    assert [row["step"] for row in rows if row["val/top1"]] == ["4", "8"]


def test_checkpoint_is_self_contained(trained):
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    about = checkpoint["videonorm"]
    assert about["backbone"]["class_path"] == "videonorm.models.ResNet3d"
    assert about["backbone"]["init_args"]["norm"]["init_args"]["momentum"] == 0.2
    assert about["input"] == {
        "num_frames": 4,
        "frame_stride": 1,
        "crop_size": 16,
        "short_side": None,
        "mean": [0.45] * 3,
        "std": [0.225] * 3,
        "clip_starts": "linspace",
        "short_video": "loop",
        "frames_per_second": None,
    }
    assert about["class_names"] is None and checkpoint["global_step"] == 8
    assert all(name.startswith("backbone.") for name in checkpoint["state_dict"])


def test_test_and_predict_go_by_the_saved_config(trained, tmp_path):
    """On the test videos, of which the sixth is bad: it is reported, has no score and is not replaced."""
    checkpoint = trained / "checkpoints" / "best.ckpt"
    run("test", trained / "config.yaml", tmp_path, "--ckpt_path", checkpoint)
    run("predict", trained / "config.yaml", tmp_path, "--ckpt_path", checkpoint)

    result = read_json(tmp_path / "test.json")
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert (result["videos"], result["bad_videos"], result["num_clips"], result["num_crops"]) == (5, 1, 2, 3)
    *scored, bad = rows
    assert len(scored) == 5 and bad["path"].endswith("bad.mp4") and bad["predicted"] == bad["0"] == ""
    assert all(float(row["0"]) + float(row["1"]) == pytest.approx(1, abs=1e-5) for row in scored)
    assert sum(row["predicted"] == row["label"] for row in scored) / 5 == pytest.approx(result["top1"])
    assert "bad.mp4" in (tmp_path / "bad_videos.csv").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {
        "test.json",
        "test.csv",
        "predictions.csv",
        "bad_videos.csv",
    }


def test_videos_without_labels_can_be_predicted_not_scored(trained, videos, tmp_path):
    name = os.fsdecode(b"\xff a.mp4")
    shutil.copy(videos.folder / "10.mp4", tmp_path / name)
    unlabelled = tmp_path / "unlabelled.csv"
    unlabelled.write_bytes(b"path,label\n\xff a.mp4,\n" + bytes(videos.folder / "11.mp4") + b",\n")
    test = ["--data.source.init_args.test", unlabelled]
    run("predict", trained / "config.yaml", tmp_path, *test, "--ckpt_path", trained / "checkpoints/best.ckpt")
    with open(tmp_path / "predictions.csv", newline="", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(tmp_path / name), str(videos.folder / "11.mp4")]
    assert [row["label"] for row in rows] == ["", ""]
    assert all(float(row["0"]) + float(row["1"]) == pytest.approx(1, abs=1e-5) for row in rows)
    with pytest.raises(UserError, match=r"manifest \(.*unlabelled.csv\) must have labels for videonorm test"):
        run(
            "test", trained / "config.yaml", tmp_path, *test, "--ckpt_path", trained / "checkpoints/best.ckpt"
        )


class Killed(BaseException):
    pass


@pytest.fixture
def seen(monkeypatch):
    """Record the clips of every training step; `seen.stop_after = n` kills the run after n, as it were."""
    training_step = VideoClassifier.training_step

    class Seen(list):
        stop_after = None

    steps = Seen()

    def recorded(self, batch, batch_idx):
        if len(steps) == steps.stop_after:
            raise Killed
        steps.append((batch.clips.double().sum().item(), batch.label.tolist()))
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(VideoClassifier, "training_step", recorded)
    return steps


@pytest.mark.parametrize("killed_after", [2, 4, 7], ids=lambda steps: f"after_{steps}")
def test_killed_run_goes_on_as_if_unbroken(recipe, tmp_path, seen, trained, killed_after):
    """Checkpoints are written after steps 3 and 6; steps 4 and 7 are in the middle of an epoch of five."""
    seen.stop_after = killed_after
    with pytest.raises(Killed):
        run("fit", recipe, tmp_path, "--ckpt_path", "last")  # there is none yet: from the beginning
    assert read_json(tmp_path / "run.json")["status"] == "failed"
    before = list(seen)
    seen.clear()
    seen.stop_after = None
    run("fit", recipe, tmp_path, "--ckpt_path", "last")

    kept = killed_after // 3 * 3
    record, unbroken = read_json(tmp_path / "run.json"), read_json(trained / "run.json")
    for name in ("status", "step", "total_steps", "clips_seen", "val_videos"):
        assert record[name] == unbroken[name], name
    assert len(seen) == 8 - kept and seen[: killed_after - kept] == before[kept:]
    assert len({tuple(label) + (clips,) for clips, label in before[:kept] + seen}) == 8  # no batch came twice
    with open(tmp_path / "metrics.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == [str(step) for step in range(9)]


def test_run_killed_in_its_last_validation_is_validated_after_all(recipe, tmp_path, monkeypatch):
    """Five videos, two a batch: the fourth validation step is the first one after training."""
    validation_step, calls = VideoClassifier.validation_step, []

    def killed_at_the_end(self, batch, batch_idx):
        calls.append(batch_idx)
        if len(calls) == 4:
            raise Killed
        return validation_step(self, batch, batch_idx)

    monkeypatch.setattr(VideoClassifier, "validation_step", killed_at_the_end)
    with pytest.raises(Killed):
        run("fit", recipe, tmp_path)
    assert read_json(tmp_path / "run.json")["step"] == 8
    run("fit", recipe, tmp_path, "--ckpt_path", "last")
    record = read_json(tmp_path / "run.json")
    assert (record["status"], record["step"], record["val_videos"]) == ("done", 8, 5)
    with open(tmp_path / "metrics.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file) if row["val/top1"]] == ["4", "8"]


def test_finished_run_is_not_overwritten(recipe, trained):
    before = (trained / "run.json").read_bytes()
    with pytest.raises(UserError, match=r"trainer.default_root_dir \(.*\) must be a folder without a run"):
        run("fit", recipe, trained)
    assert (trained / "run.json").read_bytes() == before

    run("fit", recipe, trained, "--ckpt_path", "last")  # nothing is left to do
    record = read_json(trained / "run.json")
    same = ("status", "step", "clips_seen", "train_seconds", "clips_per_second", "val_top1", "val_videos")
    assert {name: record[name] for name in same} == {name: json.loads(before)[name] for name in same}


def test_default_folder_is_named_after_files_clip_and_batch():
    config = jsonargparse.Namespace(
        config=["configs/motion_r18.yaml", "configs/norm/gn_ws.yaml"], seed_everything=0
    )
    clips = {"num_frames": 16, "frame_stride": 4, "frames_per_second": None}
    config.data = jsonargparse.Namespace(**clips, batch_size=8)
    assert default_run_folder(config) == "runs/motion_r18_gn_ws_16x4_b8"
    config.seed_everything = 2
    assert default_run_folder(config) == "runs/motion_r18_gn_ws_16x4_b8_s2"
    config.data.frame_stride, config.data.frames_per_second = None, 12.5
    assert default_run_folder(config) == "runs/motion_r18_gn_ws_16@12.5fps_b8_s2"


def test_overlay_changes_only_what_it_names(recipe, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        "model: {backbone: {init_args: {norm: "
        "{class_path: videonorm.layers.GroupNorm3d, init_args: {num_groups: 2}}}}}"
    )
    run("fit", recipe, tmp_path / "run", "-c", overlay, "--trainer.max_steps", 2, "--data.batch_size", 1)
    record = read_json(tmp_path / "run" / "run.json")
    assert (record["norm"], record["statistics_batch"], record["batch_size"]) == ("GroupNorm3d", None, 1)
    backbone = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["backbone"][
        "init_args"
    ]
    assert backbone["depth"] == 10 and "momentum" not in backbone["norm"]["init_args"]


def test_too_many_bad_videos_end_the_run(recipe, videos, tmp_path):
    with pytest.raises(UserError, match=r"max_bad_fraction \(0.1\) must .* 1 of 6.*bad.mp4"):
        run(
            "fit",
            recipe,
            tmp_path,
            "--data.source.init_args.val",
            videos.val_bad,
            "--data.max_bad_fraction",
            0.1,
        )
    record = read_json(tmp_path / "run.json")
    assert record["status"] == "failed" and "bad.mp4" in record["error"]
    assert "bad.mp4" in (tmp_path / "bad_videos.csv").read_text()


MISTAKES = {
    "misspelt_key": (["--data.num_frame", "3"], "unrecognized arguments: --data.num_frame 3"),
    "unknown_norm": (
        ["--model.backbone.init_args.norm", "videonorm.layers.GrupNorm"],
        r"model.backbone.norm \(videonorm.layers.GrupNorm\): module .* has no attribute 'GrupNorm'",
    ),
    "indivisible": (
        ["--model.backbone.init_args.norm", "videonorm.layers.GroupNorm3d"],
        r"num_groups \(32\) must divide num_channels \(4\)",
    ),
    "sync_batchnorm": (
        ["--trainer.sync_batchnorm", "true"],
        r"trainer.sync_batchnorm \(true\) must be false",
    ),
    "no_checkpoint": (["--ckpt_path", "nix.ckpt"], r"ckpt_path \(nix.ckpt\) must be an existing file"),
    "no_manifest": (["--data.source.init_args.train", "nix.csv"], r"manifest \(nix.csv\) must be"),
    "one_clip_bn": (["--data.batch_size", "1"], r"batch_size \(1\) must give BatchNorm3d at least 2 clips"),
    "batch_too_large": (["--data.batch_size", "11"], r"batch_size \(11\) must be at most .* videos \(10\)"),
    "accumulate": (
        ["--trainer.accumulate_grad_batches", "6"],
        r"trainer.accumulate_grad_batches \(6\) must be at most the batches of an epoch \(5\)",
    ),
    "label": (
        ["--model.backbone.init_args.num_classes", "1"],
        r"label \(1\) must be below num_classes \(1\)",
    ),
    "crop": (["--data.crop_size", "25"], r"crop_size \(25\) must be at most the shorter side"),
    "two_learning_rates": (
        ["--model.optimizer.init_args.lr", "0.1"],
        r"model.optimizer.init_args.lr \(0.1\) must be left out beside model.lr_per_256_clips \(3.2\)",
    ),
    "warmup": (["--model.scheduler.init_args.warmup", "5"], r"warmup \(5.0\) must be a fraction of training"),
}


@pytest.mark.parametrize("options, message", MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_one_sentence_and_leaves_nothing(recipe, tmp_path, options, message):
    with pytest.raises(UserError, match=message) as caught:
        run("fit", recipe, tmp_path / "run", *options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_garbage_checkpoint(recipe, tmp_path):
    (tmp_path / "garbage.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"garbage.ckpt\) must be a checkpoint that torch can read"):
        run("fit", recipe, tmp_path / "run", "--ckpt_path", tmp_path / "garbage.ckpt")
    with pytest.raises(UserError, match=r"ckpt_path \(null\) must name a checkpoint for videonorm test"):
        run("test", recipe, tmp_path / "run")
