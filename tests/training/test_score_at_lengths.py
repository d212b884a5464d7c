"""The scores that a training leaves of every video, by its own clips and by others."""

import csv
import json
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from videonorm.data import dataset
from videonorm.errors import UserError
from videonorm.evaluation.scores import VideoScores
from videonorm.models import ResNet3d
from videonorm.training import RunRecord, ScoreAtLengths, VideoClassifier, throughput
from videonorm.training.cli import main
from videonorm.training.interruption import Stopped
from videonorm.training.score_at_lengths import View, ViewScores, _write
from videonorm.training.scoring import Scored

EMA = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.5}}


def scores_at(*views):
    """As a sweep asks for them."""
    callback = {"class_path": "videonorm.training.ScoreAtLengths", "init_args": {"views": list(views)}}
    return f"--trainer.callbacks+={json.dumps(callback)}"


def run(command, recipe, folder, *options):
    main([command, "-c", str(recipe), "--trainer.default_root_dir", str(folder), *map(str, options)])


def fit(recipe, folder, *options):
    """The record and the scores."""
    run("fit", recipe, folder, *options)
    with np.load(folder / "scores.npz", allow_pickle=False) as file:
        return json.loads((folder / "run.json").read_text()), dict(file)


def validated(recipe, folder, checkpoint, view, *options):
    """Losses by path, and top-1, of a checkpoint by `videonorm validate`."""
    clips = zip(("num_frames", "frame_stride", "num_val_clips"), view, strict=True)
    asked = [word for name, value in clips for word in (f"--data.{name}", value)]
    run("validate", recipe, folder, "--ckpt_path", checkpoint, *asked, *options)
    with open(folder / "validate.csv", newline="") as file:
        losses = {row["path"]: float(row["loss"] or "nan") for row in csv.DictReader(file)}
    return losses, json.loads((folder / "validate.json").read_text())["top1"]


def assert_scored(found, row, losses, top1):
    assert list(losses) == found["path"].tolist()
    np.testing.assert_allclose(found["loss"][row], list(losses.values()), rtol=1e-5)
    assert np.nanmean(found["top1"][row]) == pytest.approx(top1)


@pytest.fixture(scope="module")
def scored(recipe, videos, tmp_path_factory):
    """A run by 4 x 1 on six videos, of which one is bad, and the same one without the callback.

    Its clock is of steps of a second, and of validations of twenty. The network cannot take three frames.
    """
    folder, now = tmp_path_factory.mktemp("scored"), [0.0]
    forward = ResNet3d.forward

    def timed(self, clips):
        now[0] += 1.0 if self.training else 20.0
        if clips.shape[2] == 3:
            raise RuntimeError("three\nis none of its lengths")
        return forward(self, clips)

    options = ["--data.source.init_args.val", videos.val_bad, "--data.num_val_crops", 2]
    views = [2, 2, 2], [4, 1, 1], [3, 1, 1], [13, 1, 1], [2, 2, 2], [6, 2, 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResNet3d, "forward", timed)
        patch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: now[0]))
        with pytest.warns(UserWarning, match="val videos that cannot be used: 1"):
            record, found = fit(recipe, folder / "run", *options, scores_at(*views))
            run("fit", recipe, folder / "plain", *options)
    return SimpleNamespace(folder=folder, options=options, record=record, found=found)


def test_the_file(scored):
    found = scored.found
    assert [found[name].tolist() for name in View._fields] == [
        [4, 2, 3, 13, 6],
        [1, 2, 1, 1, 2],
        [1, 2, 1, 1, 1],
    ]
    assert found["num_crops"].tolist() == [2] * 5
    assert found["label"].tolist() == [0, 1, 0, 1, 0, 0]
    assert {name: of.dtype.str for name, of in found.items() if name != "path"} == {
        **dict.fromkeys(["label", *View._fields, "num_crops"], "<i8"),
        **dict.fromkeys(["top1", "top5", "loss"], "<f4"),
    }
    for name in ("top1", "top5", "loss"):
        assert np.isnan(found[name]).tolist() == [
            [False] * 5 + [True] if view in (0, 1, 4) else [True] * 6 for view in range(5)
        ]


def test_its_own_validation_is_the_first(scored):
    record, found = scored.record, scored.found
    with open(scored.folder / "run" / "val.csv", newline="") as file:
        losses = {row["path"]: float(row["loss"] or "nan") for row in csv.DictReader(file)}
    assert_scored(found, 0, losses, record["val_top1"])
    means = {name: record[f"val_{name}"] for name in ("top1", "top5", "loss", "videos")}
    assert record["views"][0] == {
        **dict(zip(View._fields, (4, 1, 1), strict=True)),
        **{"num_crops": 2, "error": None},
        **means,
    }


@pytest.mark.parametrize("row, view", [(1, (2, 2, 2)), (4, (6, 2, 1))])
def test_the_others_are_what_validate_finds(scored, recipe, tmp_path, row, view):
    last = scored.folder / "run" / "checkpoints" / "last.ckpt"
    losses, top1 = validated(recipe, tmp_path, last, view, *scored.options)
    assert_scored(scored.found, row, losses, top1)
    means = scored.record["views"][row]
    assert (means["num_frames"], means["videos"]) == (view[0], 5) and means["top1"] == pytest.approx(top1)
    assert means["loss"] == pytest.approx(np.nanmean(list(losses.values())))


def test_what_cannot_be_scored_says_why(scored):
    said = [view["error"] for view in scored.record["views"]]
    longest = "a clip of 13 frames at frame_stride 1 spans 13, and the longest video has 12"
    assert said == [None, None, "RuntimeError: three is none of its lengths", longest, None]
    for view in scored.record["views"][2:4]:
        assert [view[name] for name in ("top1", "top5", "loss", "videos")] == [None, None, None, 0]


def test_nothing_else_of_the_run_changes(scored):
    ours, plain = scored.folder / "run", scored.folder / "plain"
    but = {"views", "peak_memory_mib", "clips_per_second"}
    expected = json.loads((plain / "run.json").read_text())
    assert {k: v for k, v in scored.record.items() if k not in but} == {
        k: v for k, v in expected.items() if k not in but
    }
    assert expected["views"] == [] and expected["train_seconds"] == 8
    files = {str(path.relative_to(ours)) for path in ours.rglob("*") if path.is_file()}
    assert {name for name in files if "tfevents" not in name} == {"scores.npz"} | {
        str(path.relative_to(plain))
        for path in plain.rglob("*")
        if path.is_file() and "tfevents" not in path.name
    }
    for name in ("val.csv", "bad_videos.csv"):
        assert (ours / name).read_bytes() == (plain / name).read_bytes()
    rows = [list(csv.DictReader((folder / "metrics.csv").open())) for folder in (ours, plain)]
    assert [{k: row[k] for k in row if k != "clips_per_second"} for row in rows[0]] == [
        {k: row[k] for k in row if k != "clips_per_second"} for row in rows[1]
    ]


def test_a_stopped_run_is_scored_when_it_goes_on(recipe, tmp_path, monkeypatch):
    """Averaged weights, with other callbacks of the recipe; the videos are decoded once a session."""
    opened, open_video = [], dataset.open_video
    step, calls = VideoClassifier.validation_step, []
    plus = tmp_path / "plus.yaml"
    plus.write_text(json.dumps({"trainer": {"callbacks": [EMA]}}))

    def asked(self, batch, batch_idx):
        calls.append(batch.clips.shape[3])
        if calls[-1] == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, batch_idx)

    def counted(path, *args):
        opened.append(path)
        return open_video(path, *args)

    options = ["-c", plus, "--data.cache_mib", 10, scores_at([2, 1, 1], [8, 1, 1])]
    with monkeypatch.context() as patch:
        patch.setattr(VideoClassifier, "validation_step", asked)
        with pytest.raises(Stopped):
            run("fit", recipe, tmp_path / "run", *options)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "stopped"
    assert not (tmp_path / "run" / "scores.npz").exists()
    monkeypatch.setattr(dataset, "open_video", counted)
    record, found = fit(recipe, tmp_path / "run", *options, "--ckpt_path", "last")
    assert (record["status"], record["step"], len(record["views"])) == ("done", 8, 3)
    rehearsed, *judged = [path for path in opened if path in found["path"]]
    assert sorted(judged) == sorted(found["path"])
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    losses, top1 = validated(recipe, tmp_path, last, (8, 1, 1))
    assert_scored(found, 2, losses, top1)


@pytest.mark.slow
def test_a_killed_run_is_scored_when_it_goes_on(recipe, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("videonorm.training.score_at_lengths._write", killed)
        run("fit", recipe, tmp_path, scores_at([2, 1, 1]))
    assert json.loads((tmp_path / "run.json").read_text())["status"] != "done"
    record, found = fit(recipe, tmp_path, scores_at([2, 1, 1]), "--ckpt_path", "last")
    assert (record["status"], record["step"], found["num_frames"].tolist()) == ("done", 8, [4, 2])


def test_the_same_videos_in_batches_of_as_many_frames(recipe, tmp_path, monkeypatch):
    """The first four, two at a time by four frames; none of them where all are too short."""
    shapes, step = [], VideoClassifier.validation_step

    def watched(self, batch, batch_idx):
        shapes.append(tuple(batch.clips.shape[:2]) + tuple(batch.clips.shape[3:4]))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(VideoClassifier, "validation_step", watched)
    options = ["--trainer.limit_val_batches", 2, "--data.short_video", "error", "--trainer.max_steps", 1]
    record, found = fit(recipe, tmp_path, *options, scores_at([8, 1, 1], [2, 1, 1], [16, 1, 1]))
    assert shapes == [(2, 1, 4)] * 2 + [(1, 1, 8)] * 4 + [(4, 1, 2)] + [(0, 0, 0)] * 4
    assert np.isnan(found["loss"]).tolist() == [[False] * 4 + [True]] * 3 + [[True] * 5]
    assert (
        "max_bad_fraction (0.2) must cover the videos that cannot be used, which are 4 of 4: "
        in (record["views"][3]["error"])
    )
    assert record["bad_videos"] == 0 and not (tmp_path / "bad_videos.csv").exists()


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, clips):
        return self.head(clips.mean(dim=(2, 3, 4)))


def fit_own_loader(folder, *callbacks):
    """A person's own trainer and data loader, and a validation without one."""
    loader = DataLoader(
        TensorDataset(torch.randn(5, 3, 2, 4, 4), torch.tensor([0, 1, 2, 0, 1])), batch_size=2
    )
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    options = {**quiet, "accelerator": "cpu", "max_steps": 2, "enable_checkpointing": False}
    trainer = Trainer(default_root_dir=folder, callbacks=list(callbacks), **options)
    model = VideoClassifier(Backbone(), lambda groups: torch.optim.SGD(groups, lr=0.1))
    trainer.fit(model, loader, loader)


def test_with_a_data_loader_of_another(tmp_path):
    fit_own_loader(tmp_path, RunRecord(), ScoreAtLengths([]))
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as file:
        assert file["path"].tolist() == list("01234") and file["label"].tolist() == [0, 1, 2, 0, 1]
        assert [file[name].tolist() for name in View._fields] == [[2], [0], [1]]
        assert file["top1"].shape == (1, 5) and not np.isnan(file["loss"]).any()
    for callbacks, sentence in [
        ([RunRecord(), ScoreAtLengths([(2, 1, 1)])], "must have no views: another's data loader"),
        ([ScoreAtLengths([])], "must have a RunRecord beside it"),
        ([RunRecord(), ScoreAtLengths([]), ScoreAtLengths([])], "must be there once, with all views"),
    ]:
        with pytest.raises(UserError, match=rf"callbacks \(ScoreAtLengths\) {sentence}"):
            fit_own_loader(tmp_path / "other", *callbacks)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ([scores_at([4, 0, 1])], r"views \(4x0\): frame_stride \(0\) must be at least 1"),
        ([scores_at([0, 1, 1])], r"views \(0x1\): num_frames \(0\) must be at least 1"),
        ([scores_at([4, 1])], r"views"),
        ([scores_at(), "--trainer.limit_val_batches", 0], r"must have videos to validate on"),
    ],
)
def test_what_it_refuses(recipe, tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        run("fit", recipe, tmp_path / "run", *options)
    assert not (tmp_path / "run" / "run.json").exists()


def test_any_name_of_a_video(tmp_path):
    scores = VideoScores(1, 2)
    scores.add(torch.tensor([0]), torch.tensor([1]), torch.zeros(1, 1, 2))
    name = os.fsdecode(b"\xff a.mp4")
    _write(tmp_path / "scores.npz", [Scored(name, 1)], [ViewScores(View(4, 1, 1), 1, scores)])
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as file:
        assert file["path"].tolist() == [name] and file["top1"].tolist() == [[0.5]]  # two equal scores
