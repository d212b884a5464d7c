"""Checkpoints as `videonorm fit` writes them, and videos, both tiny."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from videonorm.evaluation.checkpoint import build_backbone

CONV = "torch.nn.Conv3d"
WS_CONV = "videonorm.layers.WSConv3d"
WEIGHT_NORM_CONV = "videonorm.layers.WeightNormConv3d"
BATCH_NORM = {"class_path": "videonorm.layers.BatchNorm3d"}
GROUP_NORM = {"class_path": "videonorm.layers.GroupNorm3d", "init_args": {"num_groups": 4}}
BATCH_CHANNEL_NORM = {"class_path": "videonorm.layers.BatchChannelNorm3d", "init_args": {"num_groups": 4}}

BACKBONES = {  # norm, conv, kind
    "bn": (BATCH_NORM, CONV, "r3d"),
    "ws": (BATCH_NORM, WS_CONV, "r3d"),
    "gn": (GROUP_NORM, CONV, "i3d"),  # its temporal pool rounds T / 2 up
    "gn_ws": (GROUP_NORM, WS_CONV, "r3d"),
    "bcn_wn": (BATCH_CHANNEL_NORM, WEIGHT_NORM_CONV, "r3d"),
}


@pytest.fixture
def backbone() -> Callable[[str], dict[str, Any]]:
    """Call it with a name of BACKBONES for the backbone's description."""

    def describe(name: str) -> dict[str, Any]:
        norm, conv, kind = BACKBONES[name]
        init_args = {"depth": 10, "kind": kind, "num_classes": 3, "width": 8, "norm": norm, "conv": conv}
        return {
            "class_path": "videonorm.models.ResNet3d",
            "init_args": {**init_args, "zero_init_residual": False},
        }

    return describe


@pytest.fixture
def checkpoint(tmp_path: Path, backbone: Callable[[str], dict[str, Any]]) -> Callable[..., Path]:
    """Call it with a name of BACKBONES, and with entries of the checkpoint to replace."""

    def write(name: str, **replaced: Any) -> Path:
        torch.manual_seed(0)
        model = build_backbone(backbone(name), "the test")
        for module in model.modules():
            if hasattr(module, "momentum"):  # running statistics are those of one batch, and logits near 1
                module.momentum = None
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            model.train()(torch.randn(4, 3, 4, 32, 32))
        clips = {
            "num_frames": 4,
            "frame_stride": 2,
            "crop_size": 32,
            "short_side": None,
            "mean": [0.45, 0.45, 0.45],
            "std": [0.225, 0.225, 0.225],
            "clip_starts": "linspace",
            "short_video": "loop",
        }
        content = {
            "state_dict": {f"backbone.{name}": tensor for name, tensor in model.state_dict().items()},
            "global_step": 400,
            "epoch": 3,
            "videonorm": {
                "version": "0.1.0",
                "backbone": backbone(name),
                "input": clips,
                "class_names": ["left", "right", "still"],
            },
        }
        path = tmp_path / f"{name}.ckpt"
        torch.save({**content, **replaced}, path)
        return path

    return write


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Five small videos in two sizes with labels 0 1 2 0 1, and a sixth that is no video."""
    folder = tmp_path / "videos"
    folder.mkdir()
    rows = ["path,label"]
    for index, label in enumerate([0, 1, 2, 0, 1]):
        _write_video(folder / f"{index}.mp4", seed=index, width=48 if index % 2 else 40)
        rows.append(f"videos/{index}.mp4,{label}")
    (folder / "broken.mp4").write_bytes(b"not a video")
    rows.append("videos/broken.mp4,2")
    path = tmp_path / "test.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def _write_video(path: Path, seed: int, width: int, height: int = 36, num_frames: int = 12) -> None:
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for t in range(num_frames):
            picture = np.ascontiguousarray(texture[t : t + height, 2 * t : 2 * t + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
