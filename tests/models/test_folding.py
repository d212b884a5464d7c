"""Convolutions become plain, batch norms go into them: the function of evaluation stays."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import video as torchvision_video

from videonorm import layers
from videonorm.models import ResNet3d, VGG3d, convert, fold, from_pytorchvideo
from videonorm.models.resnet3d import KINDS

CLIPS = torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SHAPE = (1, 3, 3, 16, 16)


def off_centre(model: nn.Module) -> nn.Module:
    """Statistics far from 0 and 1, no gamma of 0; in evaluation mode."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(getattr(module, "running_mean", None), torch.Tensor):
            nn.init.normal_(module.running_mean, 1.0, 3.0)
            nn.init.uniform_(module.running_var, 0.3, 4.0)
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model.eval()


def assert_folds(model: nn.Module, num_folded: int, tolerance: float = 1e-5, clips: Tensor = CLIPS) -> None:
    """Nothing is left, and the logits are the same but for so much of the largest."""
    with torch.no_grad():
        expected = model(clips)
        report = fold(model, tuple(clips.shape))
        assert (model(clips) - expected).abs().max() <= tolerance * expected.abs().max()
    assert not report.left
    assert len([change for change in report.changed if ", in " in change.after]) == num_folded
    assert not any("BatchNorm" in type(module).__name__ for module in model.modules())
    assert not any(isinstance(module, layers.ReparametrizedConv3d) for module in model.modules())


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind == "r2plus1d" else [pytest.mark.slow]) for kind in KINDS],
)
def test_every_kind_of_residual_network_folds_whole(kind):
    num_norms = {"r2plus1d": 21, "r2plus1d_pooled": 24}.get(kind, 12)  # one between the two of a factored one
    assert_folds(off_centre(ResNet3d(10, kind, num_classes=5, width=8)), num_norms)


def test_in_float64_to_1e_12():
    model = off_centre(ResNet3d(10, "i3d", num_classes=5, width=8, conv=layers.WSConv3d)).double()
    assert_folds(model, 12, 1e-12, CLIPS.double())


@pytest.mark.parametrize(
    "norm",
    [
        layers.SubBatchNorm3d,
        partial(layers.ImposedBatchNorm3d, spread_of_means=1.0, spread_of_scales=0.5),
        pytest.param(layers.BatchRenorm3d, marks=pytest.mark.slow),
        pytest.param(layers.FrozenBatchNorm3d, marks=pytest.mark.slow),
        pytest.param(layers.SyncBatchNorm3d, marks=pytest.mark.slow),
    ],
)
def test_every_batch_norm_folds_and_standardized_weights_with_it(norm):
    assert_folds(off_centre(ResNet3d(10, num_classes=5, width=8, norm=norm, conv=layers.WSConv3d)), 12)


@pytest.mark.slow
def test_a_folded_network_is_one_without_norms():
    model = off_centre(ResNet3d(50, "slow", num_classes=5, width=4)).double()
    plain = ResNet3d(50, "slow", num_classes=5, width=4, norm=layers.NoNorm).double()
    assert_folds(model, 53, 1e-11, CLIPS.double())
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain.eval()(CLIPS.double()), model(CLIPS.double()))


def test_networks_without_residuals_fold():
    model = VGG3d(11, 5, norm=layers.BatchNorm3d, conv=layers.WeightNormConv3d, width=2)
    assert_folds(off_centre(model), 8)


@pytest.mark.slow
def test_networks_of_pytorchvideo_fold():
    assert_folds(off_centre(from_pytorchvideo("x3d_xs", num_classes=5)), 83)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"), [("x3d_xs", 83), ("r2plus1d_r50", 69), ("csn_r101", 104), ("slowfast_r50", 110)]
)
def test_networks_of_pytorchvideo_with_our_norms_fold(name, count):
    model = off_centre(from_pytorchvideo(name, num_classes=5, norm=layers.BatchNorm3d)).double()
    assert_folds(model, count, 1e-10, torch.randn(1, 3, 8, 32, 32, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("r3d_18", 20), ("mc3_18", 20), ("r2plus1d_18", 37)])
def test_torchvisions_networks_fold(name, count):
    assert_folds(off_centre(getattr(torchvision_video, name)(num_classes=5)), count)


def test_batch_norms_without_affine_and_convolutions_in_groups_fold():
    model = nn.Sequential(
        nn.Conv3d(3, 6, 3, padding=1, padding_mode="replicate", groups=3),
        nn.Identity(),
        nn.BatchNorm3d(6, affine=False, eps=1e-2),
    )
    assert_folds(off_centre(model), 1)


def test_the_batch_norm_of_a_batch_channel_norm_folds_and_its_groups_stay():
    model = off_centre(
        ResNet3d(10, num_classes=5, width=8, norm=partial(layers.BatchChannelNorm3d, num_groups=4))
    )
    expected = model(CLIPS)
    report = fold(model, SHAPE)
    assert len(report.changed) == len(report.left) == 12
    assert {left.reason for left in report.left} == {"it normalizes by statistics of the clip"}
    torch.testing.assert_close(model(CLIPS), expected, atol=1e-5, rtol=1e-4)


class TwoReaders(nn.Module):
    def __init__(self, use: str) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, 3, 1), layers.BatchNorm3d(3)
        self.use = use

    def forward(self, x):
        y = self.conv(x)
        if self.use == "sum":
            return self.norm(y) + y
        if self.use == "residual":
            return self.norm(y, residual=y)
        if self.use == "in place":
            return self.norm(y.relu_())
        if self.use == "part":
            return self.norm(y[:, :, :1])
        if self.use == "result":
            return self.norm(y), y
        if self.use == "twice":
            return self.norm(y), self.norm(y)
        if self.use == "convolves twice":
            return self.norm(y), self.conv(x + 1)
        return y if self.use == "never" else self.norm(x)


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        ("sum", "what conv before it gives has other readers"),
        ("residual", "what conv before it gives has other readers"),
        ("in place", "what conv before it gives has other readers"),
        ("result", "what conv before it gives has other readers"),
        ("part", "what it normalizes is not what a Conv3d gives"),
        ("before", "what it normalizes is not what a Conv3d gives"),
        ("twice", "it is called 2 times"),
        ("never", "it is called 0 times"),
        ("convolves twice", "conv before it is called 2 times"),
    ],
)
def test_a_norm_that_cannot_be_folded_stays_and_is_named_with_the_reason(use, reason):
    model = off_centre(TwoReaders(use))
    before, expected = copy.deepcopy(model.state_dict()), model(CLIPS)
    report = fold(model, SHAPE)
    assert not report.changed and [(of.name, of.reason) for of in report.left] == [("norm", reason)]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    torch.testing.assert_close(model(CLIPS), expected)


class Doubling(nn.Conv3d):
    def forward(self, x):
        return super().forward(x).relu()


def test_other_norms_and_what_is_somebodys_own_stay():
    untracked = nn.BatchNorm3d(4, track_running_stats=False)
    hooked = nn.Conv3d(4, 4, 1)
    model = nn.Sequential(
        *(nn.Conv3d(3, 4, 1), nn.GroupNorm(2, 4)),
        *(nn.Conv3d(4, 4, 1), untracked),
        *(Doubling(4, 4, 1), nn.BatchNorm3d(4)),
        *(hooked, nn.BatchNorm3d(4)),
        *(nn.Conv3d(4, 4, 1), nn.BatchNorm3d(4)),
    )
    off_centre(model)[-1].train()
    hooked.register_forward_hook(lambda module, args, y: y.relu())
    expected = model(CLIPS)
    report = fold(model, SHAPE)
    assert not report.changed
    assert [(left.name, left.reason) for left in report.left] == [
        ("1", "it normalizes by statistics of the clip"),
        ("3", "it has no running statistics"),
        ("5", "4 before it stays as it is: its forward is its own"),
        ("7", "6 before it stays as it is: it has hooks"),
        ("9", "it is in training mode"),
    ]
    torch.testing.assert_close(model(CLIPS), expected)


def test_training_flags_and_weights_that_others_share_stay():
    model = off_centre(nn.Sequential(nn.Conv3d(3, 3, 1), nn.BatchNorm3d(3), nn.Conv3d(3, 3, 1)))
    model[2].weight = model[0].weight
    model[2].train()
    expected = model(CLIPS)
    fold(model, SHAPE)
    assert [module.training for module in model] == [False, False, True]
    torch.testing.assert_close(model(CLIPS), expected, atol=1e-5, rtol=1e-5)


def test_the_report_says_where_a_norm_went():
    model = nn.Sequential(layers.WSConv3d(3, 4, 1), layers.BatchNorm3d(4, activation="relu")).eval()
    assert str(fold(model, SHAPE)).splitlines() == [
        "1 x WSConv3d -> Conv3d, keeps weight bias",
        "1 x BatchNorm3d -> NoNorm, drops weight bias running_mean running_var num_batches_tracked",
        "  0: WSConv3d -> Conv3d(3, 4, kernel_size=(1, 1, 1), stride=(1, 1, 1))",
        "  1: BatchNorm3d -> NoNorm(4, activation='relu'), in 0",
        "0 left as they were",
    ]


def test_clips_that_the_network_cannot_take_are_refused_and_the_network_is_as_it_was():
    model = off_centre(ResNet3d(10, num_classes=5, width=4))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        ValueError, match=r"network \(ResNet3d\) must run on clips \(1, 4, 2, 8, 8\) to be fol"
    ):
        fold(model, (1, 4, 2, 8, 8))
    assert list(model.state_dict()) == list(before)
    with pytest.raises(ValueError, match=r"network \(Sequential\) must have seen a clip: 0.weight is lazy"):
        fold(nn.Sequential(nn.LazyConv3d(3, 1)))
    assert convert(model, norm=layers.FrozenBatchNorm3d).changed
