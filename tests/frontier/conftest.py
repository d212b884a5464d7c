"""A recipe without the videos, the schedule or the trainer that `fit` would ask for."""

import pytest

from videonorm.frontier.recipe import Recipe


@pytest.fixture
def tiny() -> Recipe:
    norm = {"class_path": "videonorm.layers.BatchNorm3d"}
    backbone = {
        "class_path": "videonorm.models.ResNet3d",
        "init_args": {"depth": 10, "kind": "r3d", "width": 4, "num_classes": 4, "norm": norm},
    }
    return Recipe(
        backbone=backbone,
        optimizer={"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
        precision="32-true",
        accumulate=1,
        num_frames=4,
        crop_size=16,
        batch_size=2,
        settings={"data": {"channels_last": "auto", "clips_per_video": 1}},
    )
