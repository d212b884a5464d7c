"""A data set of small videos, and what a run on it needs."""

import csv
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch


def write_video(path, brightness, num_frames=12, size=24, seed=0):
    """A grey video of noise about some brightness."""
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=12, options={"crf": "18", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for _ in range(num_frames):
            picture = np.clip(rng.normal(brightness, 20, (size, size, 1)), 0, 255).repeat(3, axis=2)
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def write_manifest(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """Dark videos (label 0) and bright ones (label 1): ten to train on, five to validate, an odd number.

    A bad sixth, in a manifest of its own, is no video at all.
    """
    folder = tmp_path_factory.mktemp("videos")
    rows = [(f"{index}.mp4", index % 2) for index in range(15)]
    for index, (name, label) in enumerate(rows):
        write_video(folder / name, brightness=60 + 130 * label, seed=index)
    (folder / "bad.mp4").write_text("this is no video")
    write_manifest(folder / "train.csv", rows[:10])
    write_manifest(folder / "val.csv", rows[10:])
    write_manifest(folder / "val_bad.csv", [*rows[10:], ("bad.mp4", 0)])
    return SimpleNamespace(
        folder=folder, train=folder / "train.csv", val=folder / "val.csv", val_bad=folder / "val_bad.csv"
    )


RECIPE = """
model:
  backbone:
    class_path: videonorm.models.ResNet3d
    init_args:
      depth: 10
      width: 4
      num_classes: 2
      norm: {{class_path: videonorm.layers.BatchNorm3d, init_args: {{momentum: 0.2}}}}
  optimizer:
    class_path: torch.optim.SGD
    init_args: {{momentum: 0.9, weight_decay: 1.0e-4}}
  lr_per_256_clips: 3.2
  scheduler: videonorm.training.WarmupCosine
data:
  source:
    class_path: videonorm.data.Manifests
    init_args: {{train: {videos.train}, val: {videos.val}, test: {videos.val_bad}}}
  num_frames: 4
  frame_stride: 1
  batch_size: 2
  crop_size: 16
  hflip: true
  num_test_clips: 2
  max_bad_fraction: 0.2
trainer:
  max_steps: 8               # an epoch is five
  accelerator: cpu
  log_every_n_steps: 1
  num_sanity_val_steps: 0
  enable_progress_bar: false
  enable_model_summary: false
last_checkpoint:
  every_n_train_steps: 3
"""


@pytest.fixture(scope="session")
def recipe(videos):
    """A complete recipe for the tiny data set."""
    path = videos.folder / "recipe.yaml"
    path.write_text(RECIPE.format(videos=videos))
    return path


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without a backend: it finds the graph, which PyTorch runs. Gives the modes asked for."""
    asked, real = [], torch.compile

    def compile(function, mode, **how):
        asked.append(mode)
        return real(function, backend="eager", **how)

    monkeypatch.setattr(torch, "compile", compile)
    return asked
