"""One network, in every kind of file that it can be judged as."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from videonorm.evaluation.artifact import load_artifact
from videonorm.evaluation.evaluate import evaluate_artifact

CPU = torch.device("cpu")


def test_every_kind_has_the_same_card_and_scores(exported: SimpleNamespace, manifest: Path) -> None:
    files = [exported.folder / name for name in ("weights.safetensors", "model.pt2", "model.onnx")]
    kinds = [exported.ckpt, exported.folder, *(file for file in files if file.exists())]
    assert len({str(load_artifact(kind, CPU).card) for kind in kinds}) == 1
    # Neither the frames nor the clips of the trace; the last batch has another number of them.
    views = {"num_clips": 1, "num_crops": 2, "num_frames": 5, "batch_size": 3}
    first, *others = [
        evaluate_artifact(kind, manifest, device="cpu", max_bad_fraction=0.2, all_scores=True, **views)
        for kind in kinds
    ]
    assert first["num_videos"] == 5
    for other in others:
        assert other["top1"] == first["top1"] and other["classes"] == first["classes"]
        for video, same in zip(other["videos"], first["videos"], strict=True):
            assert video["scores"] == pytest.approx(same["scores"], abs=2e-5)  # a logit's 1e-4, at the most
