"""Checkpoints as `videonorm fit` writes them, and videos, both tiny."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch

from videonorm.evaluation.checkpoint import build_backbone
from videonorm.evaluation.export import ONNX_PACKAGES, Format, export_checkpoint
from videonorm.layers import FrozenBatchNorm3d

CONV = "torch.nn.Conv3d"
WS_CONV = "videonorm.layers.WSConv3d"
WEIGHT_NORM_CONV = "videonorm.layers.WeightNormConv3d"
BATCH_NORM = {"class_path": "videonorm.layers.BatchNorm3d"}
FROZEN_BATCH_NORM = {"class_path": "videonorm.layers.FrozenBatchNorm3d"}
GROUP_NORM = {"class_path": "videonorm.layers.GroupNorm3d", "init_args": {"num_groups": 4}}
BATCH_CHANNEL_NORM = {"class_path": "videonorm.layers.BatchChannelNorm3d", "init_args": {"num_groups": 4}}

BACKBONES = {  # norm, conv, kind
    "bn": (BATCH_NORM, CONV, "r3d"),
    "ws": (BATCH_NORM, WS_CONV, "r3d"),
    "gn": (GROUP_NORM, CONV, "i3d"),  # its temporal pool rounds T / 2 up
    "gn_ws": (GROUP_NORM, WS_CONV, "r3d"),
    "frozen": (FROZEN_BATCH_NORM, WS_CONV, "r2plus1d"),
    "bcn_wn": (BATCH_CHANNEL_NORM, WEIGHT_NORM_CONV, "r3d"),
}


def describe(name: str, kind: str | None = None, **init_args: Any) -> dict[str, Any]:
    norm, conv, own = BACKBONES[name]
    small = {"depth": 10, "kind": kind or own, "num_classes": 3, "width": 8, "norm": norm, "conv": conv}
    return {
        "class_path": "videonorm.models.ResNet3d",
        "init_args": {**small, "zero_init_residual": False, **init_args},
    }


def freeze_at(module: FrozenBatchNorm3d, inputs: tuple[torch.Tensor, ...]) -> None:
    variance, mean = torch.var_mean(inputs[0], (0, 2, 3, 4))
    module.running_mean.copy_(mean)
    module.running_var.copy_(variance)


def write(
    folder: Path,
    name: str,
    kind: str | None = None,
    crop_size: int = 32,
    noise: float = 0.1,
    **init_args: Any,
) -> Path:
    torch.manual_seed(0)
    description = describe(name, kind, **init_args)
    model = build_backbone(description, "the test")
    for module in model.modules():
        if hasattr(module, "momentum"):  # running statistics are those of one batch, and logits near 1
            module.momentum = None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
        batch = torch.randn(4, 3, 4, crop_size, crop_size)
        frozen = [module for module in model.modules() if isinstance(module, FrozenBatchNorm3d)]
        for module in frozen:  # the statistics of the batch here too
            module.weight.uniform_(0.5, 1.5)
            module.register_forward_pre_hook(freeze_at)
        model.train()(batch)
    clips = {
        "num_frames": 4,
        "frame_stride": 2,
        "crop_size": crop_size,
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
            "backbone": description,
            "input": clips,
            "class_names": ["left", "right", "still"],
        },
    }
    path = folder / f"{name}.ckpt"
    torch.save(content, path)
    return path


@pytest.fixture
def backbone() -> Callable[[str], dict[str, Any]]:
    """Call it with a name of BACKBONES for the backbone's description."""
    return describe


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Call it with a name of BACKBONES, and with entries of the checkpoint to replace."""

    def write_it(name: str, **replaced: Any) -> Path:
        path = write(tmp_path, name)
        if replaced:
            torch.save({**torch.load(path, weights_only=True), **replaced}, path)
        return path

    return write_it


@pytest.fixture
def write_checkpoint() -> Callable[..., Path]:
    """Call it with the arguments of `write`, of which the last are those of ResNet3d."""
    return write


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A checkpoint, `ckpt`, and `folder`, its artifact in all formats that the packages here can write."""
    folder = tmp_path_factory.mktemp("exported")
    ckpt = write(folder, "gn_ws")
    formats: list[Format] = ["pt2"]
    if all(importlib.util.find_spec(package) for package in ONNX_PACKAGES):
        formats.append("onnx")
    export_checkpoint(ckpt, folder / "artifact", formats)
    return SimpleNamespace(ckpt=ckpt, folder=folder / "artifact")


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
