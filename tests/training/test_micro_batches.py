"""A training whose batch norms share statistics over accumulated batches is that of larger batches."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from videonorm.errors import UserError
from videonorm.layers import AccumulatedBatchNorm3d, BatchNorm3d, SubBatchNorm3d
from videonorm.training import VideoClassifier
from videonorm.training.micro_batches import check_micro_batches

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 1, 0])
CLIPS = torch.randn(8, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Backbone(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm1, self.conv, self.norm2 = norm(3), nn.Conv3d(3, 4, (1, 3, 3)), norm(4, activation="relu")
        self.head = nn.Linear(4, 3)

    def forward(self, clips):
        return self.head(self.norm2(self.conv(self.norm1(clips))).mean(dim=(2, 3, 4)))


QUIET = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")


def fit(folder, norm, batch_size, accumulate):
    torch.manual_seed(0)
    module = VideoClassifier(Backbone(norm), lambda groups: torch.optim.SGD(groups, lr=0.5))
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        precision="64-true",
        max_epochs=2,
        accumulate_grad_batches=accumulate,
        **dict.fromkeys(QUIET, False),
    )
    trainer.fit(module, DataLoader(TensorDataset(CLIPS, LABELS), batch_size=batch_size))
    return module, trainer


@pytest.mark.parametrize("size, accumulate", [pytest.param(2, 2, marks=pytest.mark.slow), (1, 4)])
def test_a_training_of_micro_batches_is_that_of_large_ones(tmp_path, recwarn, size, accumulate):
    """Of eight clips two steps an epoch."""
    ours, trainer = fit(tmp_path, AccumulatedBatchNorm3d, size, accumulate)
    large, of_large = fit(tmp_path, BatchNorm3d, 4, 1)
    assert trainer.global_step == of_large.global_step == 4
    for got, want in zip(ours.state_dict().values(), large.state_dict().values(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
    loss, want = (of.callback_metrics["train/loss"] for of in (trainer, of_large))
    torch.testing.assert_close(loss, want)
    assert ours.batch_sizes.statistics_batch == 4 and ours.batch_sizes.global_batch == 4
    assert not any("training_step" in str(warning.message) for warning in recwarn)


def test_the_last_step_of_an_epoch_is_of_what_is_left(tmp_path):
    module, trainer = fit(tmp_path, AccumulatedBatchNorm3d, 2, 3)
    assert trainer.global_step == 4  # of 6 and of 2 clips, twice
    assert module.backbone.norm1.num_batches_tracked == 4


@pytest.mark.parametrize(
    "beside, options, message",
    [
        (nn.Identity(), {"world_size": 2}, r"trainer.devices \(2\) must be 1"),
        (nn.Identity(), {"precision": "16-mixed"}, r"trainer.precision \(16-mixed\) must be another"),
        (SubBatchNorm3d(4), {}, r"norm \(SubBatchNorm3d\) must not be beside"),
    ],
    ids=["devices", "precision", "norms"],
)
def test_what_cannot_be_shared_is_refused(beside, options, message):
    network = nn.ModuleList([AccumulatedBatchNorm3d(4), beside])
    one = {"world_size": 1, "precision": "32-true"}
    check_micro_batches(network.eval(), SimpleNamespace(accumulate_grad_batches=2, **(one | options)))
    check_micro_batches(network.train(), SimpleNamespace(accumulate_grad_batches=1, **(one | options)))
    with pytest.raises(UserError, match=message):
        check_micro_batches(network, SimpleNamespace(accumulate_grad_batches=2, **(one | options)))


def test_a_training_that_cannot_share_writes_nothing(tmp_path):
    with pytest.raises(UserError, match=r"batch_size \(1\) must give AccumulatedBatchNorm3d at least 2"):
        fit(tmp_path, AccumulatedBatchNorm3d, 1, 1)
    with pytest.raises(UserError, match=r"\(7\) must leave the last step .* 8 batches at least 2 clips"):
        fit(tmp_path, AccumulatedBatchNorm3d, 1, 7)
    assert not list(tmp_path.iterdir())
