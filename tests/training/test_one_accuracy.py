"""One checkpoint, one manifest: every command gives the same row for the same video.

The manifest has a bad video and three classes, fewer than five; two classes of the network are tied. The
times of the clips fall between the frames of the videos.
"""

import csv
import json
from types import SimpleNamespace

import pytest
import torch

from videonorm.errors import UserError
from videonorm.evaluation.evaluate import evaluate_artifact
from videonorm.evaluation.export import export_checkpoint
from videonorm.training.cli import main

GROUP_NORM = '{"class_path": "videonorm.layers.GroupNorm3d", "init_args": {"num_groups": 2}}'
RESULTS = ("val.csv", "validate.csv", "test.csv", "predictions.csv")


def run(command, recipe, folder, *options):
    main([command, "-c", str(recipe), "--trainer.default_root_dir", str(folder), *map(str, options)])


def edit(checkpoint, change):
    content = torch.load(checkpoint, weights_only=True)
    change(content["state_dict"])
    torch.save(content, checkpoint)


def rows_of(path):
    with open(path, newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def judged(recipe, videos, tmp_path_factory):
    """A network whose first two classes are tied, and options that judge it on `val_bad.csv`."""
    folder = tmp_path_factory.mktemp("judged")
    source = "--data.source.init_args."
    options = [source + "val", videos.val_bad, source + "test", videos.val_bad]
    options += ["--model.backbone.init_args.num_classes", 3, "--model.backbone.init_args.norm", GROUP_NORM]
    options += ["--data.num_test_clips", 1, "--data.num_test_crops", 1]
    options += ["--data.frame_stride", "null", "--data.frames_per_second", 7.5]
    still = ["--model.lr_per_256_clips", 0]
    run("fit", recipe, folder, *options, *still, "--trainer.max_steps", 2)
    checkpoint = folder / "checkpoints" / "last.ckpt"

    def tie(weights):
        for name in ("backbone.head.weight", "backbone.head.bias"):
            weights[name][1] = weights[name][0]

    edit(checkpoint, tie)
    # One step more that changes nothing, and the validation behind it.
    run("fit", recipe, folder, *options, *still, "--ckpt_path", "last", "--trainer.max_steps", 3)
    return SimpleNamespace(folder=folder, checkpoint=checkpoint, options=options)


def test_the_same_row_from_every_command(judged, recipe, videos, tmp_path):
    for command in ("validate", "test", "predict"):
        run(command, recipe, tmp_path, *judged.options, "--ckpt_path", judged.checkpoint)
    tables = [
        rows_of(path)
        for path in (judged.folder / "val.csv", tmp_path / "validate.csv", tmp_path / "test.csv")
    ]
    assert tables[0] == tables[1] == tables[2]
    predictions = rows_of(tmp_path / "predictions.csv")
    assert predictions.keys() == tables[0].keys()

    export_checkpoint(judged.checkpoint, tmp_path / "exported", ["pt2"])
    how = {"num_clips": 1, "num_crops": 1, "batch_size": 2, "device": "cpu", "max_bad_fraction": 0.2}
    folder, program = (
        evaluate_artifact(artifact, videos.val_bad, **how, all_scores=True)
        for artifact in (tmp_path / "exported", tmp_path / "exported" / "model.pt2")
    )
    assert [bad["path"] for bad in folder["bad_videos"]] == [str(videos.folder / "bad.mp4")]
    bad = tables[0].pop(str(videos.folder / "bad.mp4"))
    assert {bad[name] for name in ("predicted", "rank", "loss")} == {""}
    assert len(folder["videos"]) == len(program["videos"]) == len(tables[0]) == 5

    ties = 0
    for of_folder, of_program in zip(folder["videos"], program["videos"], strict=True):
        row, predicted = tables[0][of_folder["path"]], predictions[of_folder["path"]]
        assert of_folder["rank"] == of_program["rank"] == float(row["rank"])
        assert row["predicted"] == predicted["predicted"] and row["label"] == predicted["label"]
        scores = [float(predicted[name]) for name in "012"]
        assert torch.tensor(scores).tolist() == of_folder["scores"]  # to the bit
        assert scores[0] == scores[1]
        assert of_program["scores"] == pytest.approx(scores, abs=1e-5)
        ties += float(row["rank"]) % 1 == 0.5
    assert ties == 5  # all labels are 0 or 1, the tied classes

    record = json.loads((judged.folder / "run.json").read_text())
    validated, tested = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("validate", "test"))
    for name in ("top1", "top5", "loss"):
        assert record[f"val_{name}"] == validated[name] == tested[name] == folder[name]
    assert folder["top1"] in (0.0, 0.5) and folder["top5"] == 1.0 and folder["num_videos"] == 5


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_scores_that_are_not_finite_are_refused_by_name(judged, recipe, tmp_path, command):
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(judged.checkpoint.read_bytes())
    edit(broken, lambda weights: weights["backbone.head.bias"].fill_(float("nan")))
    more = ["--trainer.max_steps", 4, "--model.lr_per_256_clips", 0] if command == "fit" else []
    message = r"model at step \d must give finite scores, .* 5 of 5 videos, .*mp4"
    if command == "fit":
        message = "training loss must be finite, and is not since step 3"
    with pytest.raises(UserError, match=message):
        run(command, recipe, tmp_path / "run", *judged.options, "--ckpt_path", broken, *more)
    assert not [path for path in (tmp_path / "run").glob("*.csv") if path.name in RESULTS]
    if command == "fit":
        assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
