from functools import partial
from typing import get_args

import pytest
import torch
from jsonargparse import auto_cli
from pytorchvideo.models import hub
from torch import nn

from videonorm import layers
from videonorm.models import from_pytorchvideo
from videonorm.models.pytorchvideo import Name, TwoPathways

group_norm = partial(layers.GroupNorm3d, on_indivisible="divisor")


@pytest.mark.parametrize("name", get_args(Name))
def test_every_model_takes_one_frame_and_has_upstreams_keys(name):
    with torch.device("meta"):
        upstream = getattr(hub, name)().state_dict()
        plain = from_pytorchvideo(name)
        model = from_pytorchvideo(name, num_classes=7, norm=group_norm)
        assert model(torch.empty(2, 3, 1, 64, 64)).shape == (2, 7)
    shapes = {key: value.shape for key, value in upstream.items()}
    assert {key: value.shape for key, value in plain.state_dict().items()} == shapes
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert list(model.state_dict()) == [key for key in upstream if not key.endswith(statistics)]
    assert not any(isinstance(module, nn.BatchNorm3d) for module in model.modules())


@pytest.mark.parametrize("name", ["i3d_r50", "x3d_xs", "slowfast_r50"])
def test_takes_other_lengths_and_sizes_than_it_was_made_for(name):
    with torch.device("meta"):
        model = from_pytorchvideo(name, num_classes=7)
        for num_frames in (2, 9):
            assert model(torch.empty(2, 3, num_frames, 50, 41)).shape == (2, 7)


NORMS = {
    "upstream": None,
    "batch": layers.BatchNorm3d,
    "layer": layers.LayerNorm3d,
    "batch_channel": partial(layers.BatchChannelNorm3d, num_groups=2),
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_last_gamma_of_every_block_starts_at_zero_whatever_the_norm(norm):
    model = from_pytorchvideo("x3d_xs", norm=norm)
    last = [module.norm_c for module in model.modules() if hasattr(module, "norm_c")]
    norms = [m for m in model.modules() if isinstance(m, layers.Norm | nn.BatchNorm3d)]
    assert len(last) == 26
    assert all(module.weight.count_nonzero() == 0 for module in last)
    assert all(module.weight.all() for module in norms if module not in last)


def randomize_norms(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)


@pytest.mark.parametrize("norm", [None, layers.BatchNorm3d])
def test_logits_give_upstreams_probabilities_at_the_size_it_was_made_for(norm):
    torch.manual_seed(0)
    upstream = hub.x3d_xs(model_num_class=5).eval()
    randomize_norms(upstream)
    model = from_pytorchvideo("x3d_xs", num_classes=5, norm=norm).eval()
    model.load_state_dict(upstream.state_dict())
    clips = torch.randn(1, 3, 4, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(model(clips).softmax(1), upstream(clips), atol=1e-5, rtol=1e-5)


def test_slowfast_gives_every_fourth_frame_to_the_slow_pathway():
    torch.manual_seed(0)
    model = from_pytorchvideo("slowfast_r50", num_classes=5).eval()
    randomize_norms(model)
    clips = torch.randn(1, 3, 16, 32, 32)
    slow = clips[:, :, torch.linspace(0, 15, 4).long()]  # as PyTorchVideo's tutorial does it
    with torch.no_grad():
        pathways = [slow, clips]
        for block in model.blocks:
            pathways = block(pathways)
        torch.testing.assert_close(model(clips), pathways)


@pytest.mark.parametrize("num_frames", [1, 4, 8, 16, 32, 64])
def test_slow_frames_are_those_of_pytorchvideo(num_frames):
    pathways = []

    class Recorder(nn.Module):
        def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
            pathways.extend(x)
            return x[1]

    class SlowFast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Recorder()])

    TwoPathways(SlowFast())(torch.arange(num_frames).view(1, 1, -1, 1, 1))
    slow, fast = (pathway.flatten().tolist() for pathway in pathways)
    assert slow == torch.linspace(0, num_frames - 1, max(num_frames // 4, 1)).long().tolist()
    assert fast == list(range(num_frames))


def test_standardized_convolutions_go_where_a_norm_follows():
    model = from_pytorchvideo("x3d_xs", num_classes=5, norm=layers.LayerNorm3d, conv=layers.WSConv3d)
    plain = {
        n for n, m in model.named_modules() if isinstance(m, nn.Conv3d) and not isinstance(m, layers.WSConv3d)
    }
    outside_blocks = {
        name for name in plain if "norm_b" not in name
    }  # those of squeeze-and-excitation left out
    assert outside_blocks == {
        "blocks.0.conv.conv_t",  # of two convolutions in a row, the first
        "blocks.1.res_blocks.0.branch1_conv",  # X3D has no norm there
        "blocks.5.pool.post_conv",
    }
    logits = model(torch.randn(1, 3, 2, 32, 32))
    logits.sum().backward()
    assert logits.shape == (1, 5)


def test_is_a_class_path_on_the_command_line():
    def take(backbone: nn.Module) -> nn.Module:
        return backbone

    arguments = [
        "--backbone=videonorm.models.from_pytorchvideo",
        "--backbone.name=x3d_xs",
        "--backbone.num_classes=5",
    ]
    norm = ["--backbone.norm=videonorm.layers.GroupNorm3d", "--backbone.norm.channels_per_group=2"]
    conv = ["--backbone.conv=videonorm.layers.WSConv3d", "--backbone.conv.variant=timm"]
    model = auto_cli(take, args=[*arguments, *norm, *conv], as_positional=False)
    assert model.blocks[0].norm.num_groups == 12
    assert model.blocks[0].conv.conv_xy.variant == "timm"
    assert model.blocks[5].proj.out_features == 5


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"name \(slow_r18\) must be one of slow_r50, c2d_r50"):
        from_pytorchvideo("slow_r18")
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=r"num_groups \(32\) must divide num_channels \(24\)"),
    ):
        from_pytorchvideo("x3d_s", norm=layers.GroupNorm3d)
