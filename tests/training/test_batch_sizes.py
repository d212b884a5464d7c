from types import SimpleNamespace

import pytest
from torch import nn

from videonorm.errors import UserError
from videonorm.layers import is_norm, norm_layers
from videonorm.training.batch_sizes import (
    BatchSizes,
    check_epoch,
    clips_sharing_statistics,
)


class Ours(nn.Module):
    """A norm that says what it is, as those of videonorm.layers do."""

    is_norm = True
    min_clips = 2

    def __init__(self, num_splits=2):
        super().__init__()
        self.inner = nn.BatchNorm3d(4)
        self.num_splits = num_splits

    def statistics_batch(self, batch_size):
        if batch_size % self.num_splits:
            raise ValueError(f"num_splits ({self.num_splits}) must divide batch_size ({batch_size})")
        return batch_size // self.num_splits


def test_five_batch_sizes():
    sizes = BatchSizes.of(nn.BatchNorm3d(4), batch_size=8, accumulate=3, world_size=2, num_frames=16)
    assert sizes == BatchSizes(batch_size=8, accumulate=3, world_size=2, statistics_batch=8, num_frames=16)
    assert sizes.global_batch == 48 and sizes.frames_per_step == 768
    assert str(sizes) == (
        "8 clips a device x 3 accumulated x 2 devices = 48 clips = 768 frames a step; norms pool 8"
    )


@pytest.mark.parametrize(
    "norm, clips",
    [
        (nn.BatchNorm3d(4), 8),
        (nn.SyncBatchNorm(4), 16),
        (nn.GroupNorm(2, 4), None),
        (nn.Identity(), None),
        (Ours(), 4),
    ],
    ids=["bn", "sync_bn", "gn", "none", "ours"],
)
def test_clips_sharing_statistics(norm, clips):
    assert (
        clips_sharing_statistics(nn.Sequential(nn.Conv3d(3, 4, 1), norm), batch_size=8, world_size=2) == clips
    )


def test_too_few_clips_is_a_mistake_of_the_user():
    with pytest.raises(
        UserError, match=r"batch_size \(2\) must give Ours at least 2 clips .* set min_clips: 1"
    ):
        clips_sharing_statistics(Ours(), batch_size=2, world_size=1)
    with pytest.raises(UserError, match=r"num_splits \(2\) must divide batch_size \(3\)"):
        clips_sharing_statistics(Ours(), batch_size=3, world_size=1)


@pytest.mark.parametrize(
    "accumulate, videos, world_size, clips_per_video, limits, most",
    [
        (7, 15, 1, 1, {}, None),
        (8, 15, 1, 1, {}, 7),
        (4, 15, 2, 1, {}, 3),
        (8, 15, 1, 2, {}, None),
        (4, 15, 1, 1, {"limit_train_batches": 3}, 3),
        (4, 15, 1, 1, {"limit_train_batches": 0.5}, 3),
        (2, 15, 1, 1, {"overfit_batches": 1}, 1),
    ],
)
def test_a_step_is_made_of_one_epochs_batches(accumulate, videos, world_size, clips_per_video, limits, most):
    """Of batches of two clips: Lightning steps at the end of an epoch with fewer than are asked for."""
    limits = {"limit_train_batches": 1.0, "overfit_batches": 0.0} | limits
    trainer = SimpleNamespace(world_size=world_size, accumulate_grad_batches=accumulate, **limits)
    if most is None:
        check_epoch(videos, 2, clips_per_video, trainer)
    else:
        message = rf"accumulate_grad_batches \({accumulate}\) must be at most the batches .* \({most}\)"
        with pytest.raises(UserError, match=message):
            check_epoch(videos, 2, clips_per_video, trainer)


def test_norms_are_known_by_role_and_counted_once():
    ours = Ours()
    model = nn.Sequential(nn.Conv3d(3, 4, 1), ours, nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)))
    assert [type(norm).__name__ for norm in norm_layers(model)] == ["Ours", "LayerNorm"]
    assert list(norm_layers(ours)) == [ours]
    assert not is_norm(model)
