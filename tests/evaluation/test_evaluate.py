import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from videonorm.errors import UserError
from videonorm.evaluation.certainty import calibration_error
from videonorm.evaluation.checkpoint import load_checkpoint
from videonorm.evaluation.evaluate import evaluate_artifact
from videonorm.evaluation.export import export_checkpoint
from videonorm.evaluation.scores import VideoScores

Checkpoint = Callable[..., Path]


@pytest.fixture
def artifact(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    export_checkpoint(checkpoint("gn_ws"), tmp_path / "artifact")
    return tmp_path / "artifact"


def scores_by_hand(ckpt: Path, video: Path) -> Tensor:
    """Two clips of four frames, every second one, at frames 0 and 5 of 12; three crops of 32 x 32."""
    with av.open(str(video)) as container:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert pictures.shape[:2] == (12, 36)
    right = pictures.shape[2] - 32
    views = [
        pictures[start : start + 7 : 2, 2:34, left : left + 32]
        for start in (0, 5)
        for left in (0, right // 2, right)
    ]
    clips = (torch.tensor(np.stack(views)) / 255 - 0.45) / 0.225
    with torch.inference_mode():
        return load_checkpoint(ckpt).network(clips.movedim(-1, 1)).softmax(dim=1).mean(dim=0)


def test_scores_and_accuracies(artifact: Path, manifest: Path, tmp_path: Path) -> None:
    result = evaluate_artifact(
        artifact, manifest, num_clips=2, batch_size=3, device="cpu", max_bad_fraction=0.2, all_scores=True
    )
    labels = [0, 1, 2, 0, 1]
    by_hand = torch.stack(
        [scores_by_hand(tmp_path / "gn_ws.ckpt", tmp_path / f"videos/{index}.mp4") for index in range(5)]
    )
    torch.testing.assert_close(
        torch.tensor([v["scores"] for v in result["videos"]]), by_hand, atol=1e-5, rtol=0
    )
    assert [Path(video["path"]).name for video in result["videos"]] == [f"{index}.mp4" for index in range(5)]
    assert [video["label"] for video in result["videos"]] == labels
    right = [int(scores.argmax()) == label for scores, label in zip(by_hand, labels, strict=True)]
    assert result["top1"] == sum(right) / 5
    assert [video["rank"] == 1 for video in result["videos"]] == right
    assert result["top5"] == 1  # of three classes
    of_class = {0: right[0] + right[3], 1: right[1] + right[4], 2: right[2]}
    assert [c["top1"] for c in result["classes"]] == [of_class[0] / 2, of_class[1] / 2, of_class[2]]
    assert result["mean_class_accuracy"] == pytest.approx(
        (of_class[0] / 2 + of_class[1] / 2 + of_class[2]) / 3
    )
    assert [c["name"] for c in result["classes"]] == ["left", "right", "still"]
    assert result["num_videos"] == 5
    (bad,) = result["bad_videos"]
    assert bad["path"].endswith("broken.mp4") and bad["reason"]
    assert result["views"] == {
        "num_clips": 2,
        "num_crops": 3,
        "num_frames": 4,
        "frame_stride": 2,
        "crop_size": 32,
        "short_side": None,
        "mean": [0.45, 0.45, 0.45],
        "std": [0.225, 0.225, 0.225],
        "clip_starts": "linspace",
        "short_video": "loop",
        "frames_per_second": None,
    }


def test_scores_are_those_of_videonorm_test(
    artifact: Path, backbone: Callable[[str], dict[str, Any]], manifest: Path, tmp_path: Path
) -> None:
    from lightning.pytorch import Trainer

    from videonorm.data import Manifests
    from videonorm.evaluation.checkpoint import build_backbone
    from videonorm.training import VideoClassifier, VideoDataModule

    classifier = VideoClassifier(build_backbone(backbone("gn_ws"), "the test"), torch.optim.SGD)
    classifier.load_state_dict(torch.load(tmp_path / "gn_ws.ckpt", weights_only=True)["state_dict"])
    clips: dict[str, Any] = {"num_frames": 4, "frame_stride": 2, "crop_size": 32, "batch_size": 4}
    data = VideoDataModule(Manifests(test=manifest), **clips, num_test_clips=2, max_bad_fraction=0.2)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, enable_model_summary=False, **quiet)
    (metrics,) = trainer.test(classifier, data, verbose=False)
    result = evaluate_artifact(
        artifact, manifest, num_clips=2, batch_size=4, device="cpu", max_bad_fraction=0.2, all_scores=True
    )
    assert metrics["test/top1"] == pytest.approx(result["top1"])
    assert metrics["test/videos"] == result["num_videos"]
    ours = torch.tensor([video["scores"] for video in result["videos"]])
    torch.testing.assert_close(ours, classifier.scores.probabilities[:5], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_the_calibration_error_is_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    generator = torch.Generator().manual_seed(0)
    scores, labels = VideoScores(200, 6), torch.randint(6, (200,), generator=generator)
    logits = torch.randn(200, 1, 6, generator=generator) + 2 * torch.eye(6)[labels][:, None]
    scores.add(torch.arange(200), labels, logits)
    wanted = multiclass_calibration_error(scores.probabilities, labels, 6, n_bins=15, norm="l1")
    assert wanted > 0.01 and calibration_error(scores) == pytest.approx(wanted.item(), abs=1e-6)


def test_commands_need_no_lightning(checkpoint: Checkpoint, manifest: Path, tmp_path: Path) -> None:
    """Export, then evaluation of folder and program, each as its command; the two agree."""
    ckpt, folder = checkpoint("gn_ws"), tmp_path / "artifact"
    options = ["--data", str(manifest), "--num_clips", "2", "--num_crops", "1", "--max_bad_fraction", "0.2"]
    options += ["--num_frames", "6", "--frame_stride", "1", "--device", "cpu"]
    folder_json, program_json = tmp_path / "folder.json", tmp_path / "program.json"
    script = f"""
import sys
import videonorm.evaluation.evaluate as evaluate, videonorm.evaluation.export as export
export.main(["--ckpt", {str(ckpt)!r}, "--out", {str(folder)!r}, "--format", "pt2"])
evaluate.main(["--artifact", {str(folder)!r}, "--out", {str(folder_json)!r}, *{options!r}])
evaluate.main(["--artifact", {str(folder / "model.pt2")!r}, "--out", {str(program_json)!r}, *{options!r}])
assert "torch" in sys.modules
assert "lightning" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    results = [json.loads(file.read_text()) for file in (folder_json, program_json)]
    for result in results:
        assert result["views"]["num_frames"] == 6
        assert result["views"]["frame_stride"] == 1
        assert result["num_videos"] == 5
    tops = [[video["top5"] for video in result["videos"]] for result in results]
    for one, other in zip(*tops, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert sorted(file.name for file in tmp_path.glob("*.json")) == ["folder.json", "program.json"]


def test_json_goes_to_standard_output(
    artifact: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from videonorm.evaluation.evaluate import main

    options = ["--num_clips", "1", "--num_crops", "1", "--max_bad_fraction", "1", "--precision", "bf16"]
    main(["--artifact", str(artifact), "--data", str(manifest), "--device", "cpu", *options])
    output = capsys.readouterr()
    assert json.loads(output.out)["precision"] == "bf16"
    assert "5 videos scored, 1 bad" in output.err


def refused(message: str, artifact: Path, data: Path, **options: Any) -> None:
    with pytest.raises(UserError, match=message):
        evaluate_artifact(artifact, data, **{"num_clips": 1, "num_crops": 1, "device": "cpu", **options})


def test_bad_videos_beyond_the_limit(artifact: Path, manifest: Path) -> None:
    refused(r"max_bad_fraction \(0.05\) must cover .*1 of 6: .*broken.mp4", artifact, manifest)


def test_no_video_left(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").touch()
    (tmp_path / "all.csv").write_text("path,label\nbroken.mp4,0\n")
    message = r"data \(.*all.csv\) must hold at least one video that can be decoded"
    refused(message, artifact, tmp_path / "all.csv", max_bad_fraction=1.0)


def test_data_that_does_not_fit_the_model(artifact: Path, manifest: Path, tmp_path: Path) -> None:
    refused(r"manifest \(.*none.csv\) must be a file", artifact, tmp_path / "none.csv")
    manifest.write_text("path,label\nvideos/0.mp4,3\n")
    refused(r"label \(3\) must be below 3, the number of classes", artifact, manifest)
    manifest.write_text("path,label\nvideos/0.mp4,up\n")
    refused(r"label \(up\) must be one of the 3 class names", artifact, manifest)


def test_video_smaller_than_the_crop(artifact: Path, manifest: Path) -> None:
    refused(r"crop_size \(32\) must be at most", artifact, manifest, short_side=20)


def test_device_that_is_not_there(artifact: Path, manifest: Path) -> None:
    for name in ("gpu", "meta"):
        refused(rf"device \({name}\) must be auto, cpu or cuda", artifact, manifest, device=name)
    refused(r"device \(cuda:99\) must be present", artifact, manifest, device="cuda:99")


@pytest.mark.parametrize(
    "option, value", [("--num_clips", "0"), ("--num_workers", "-1"), ("--num_crops", "0")]
)
def test_numbers_out_of_range(option: str, value: str) -> None:
    from videonorm.evaluation.evaluate import main

    with pytest.raises(UserError, match=rf"argument {option}: \({value}\) must be a whole number"):
        main(["--artifact", "a", "--data", "b", option, value])


def test_scores_that_are_no_numbers(checkpoint: Checkpoint, manifest: Path, tmp_path: Path) -> None:
    ckpt = checkpoint("gn_ws")
    export_checkpoint(ckpt, tmp_path / "artifact")
    content = torch.load(ckpt, weights_only=True)
    from safetensors.torch import save_file

    weights = {name.removeprefix("backbone."): weight for name, weight in content["state_dict"].items()}
    save_file(
        {**weights, "head.bias": torch.full((3,), float("nan"))}, tmp_path / "artifact/weights.safetensors"
    )
    refused(
        r"artifact in fp32 must give finite scores, and gives none for 5 of 5 videos, such as .*0.mp4",
        tmp_path / "artifact",
        manifest,
    )


def test_out_must_be_writable(artifact: Path, manifest: Path, tmp_path: Path) -> None:
    from videonorm.evaluation.evaluate import main

    for out in (tmp_path, Path("/dev/null")):
        with pytest.raises(UserError, match=r"out \(.*\) must be .* written \(is no ordinary file\)"):
            main(["--artifact", str(artifact), "--data", str(manifest), "--out", str(out)])


def test_a_result_that_cannot_be_written_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from videonorm.evaluation import evaluate, judgement

    class Judgement:
        def record(self) -> dict[str, float]:
            return {"top1": 0.5}

        def write_tables(self, out: Path) -> None:
            raise OSError(28, "No space left on device", str(out))

    monkeypatch.setattr(judgement, "judge", lambda *_, **__: nullcontext(Judgement()))
    with pytest.raises(UserError, match=r"out \(.*r.json\) must be .* written \(No space left on device\)"):
        evaluate.main(["--artifact", "a", "--data", "b", "--out", str(tmp_path / "r.json")])
    assert json.loads(capsys.readouterr().out) == {"top1": 0.5}


def test_a_place_that_cannot_be_made_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videonorm.evaluation import evaluate

    monkeypatch.setattr(evaluate, "run", None)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"out \(.*r.json\) must be .* written \(Not a directory\)"):
        evaluate.main(["--artifact", "a", "--data", "b", "--out", str(tmp_path / "file" / "r.json")])


def test_a_network_of_another_number_of_classes(artifact: Path, manifest: Path) -> None:
    card = artifact / "model.yaml"
    card.write_text(card.read_text().replace("num_classes: 3\nclass_names", "num_classes: 5\nclass_names"))
    refused(r"artifact must give num_classes \(5\) scores of a clip, and gives \(3,\)", artifact, manifest)
