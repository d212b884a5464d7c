"""Files of PySlowFast's own networks, named from those of PyTorchVideo, which are the same networks."""

import re

import pytest
import torch
from models.weights.foreign import randomize, unfilled
from pytorchvideo.models import hub
from torch import Tensor, nn

from videonorm.layers import BatchNorm3d, SubBatchNorm3d
from videonorm.models import ResNet3d, from_pytorchvideo, load_foreign
from videonorm.models.weights import pyslowfast

# PyTorchVideo's name to PySlowFast's, in the order of application.
NAMES = [
    (r"^blocks\.0\.multipathway_fusion\.", "s1_fuse."),
    (r"^blocks\.0\.multipathway_blocks\.(\d)\.", r"s1.pathway\1_stem."),
    (r"^blocks\.(\d)\.multipathway_fusion\.", lambda found: f"s{int(found[1]) + 1}_fuse."),
    (
        r"^blocks\.(\d)\.multipathway_blocks\.(\d)\.res_blocks\.(\d+)\.",
        lambda found: f"s{int(found[1]) + 1}.pathway{found[2]}_res{found[3]}.",
    ),
    (r"^blocks\.(\d)\.res_blocks\.(\d+)\.", lambda found: f"s{int(found[1]) + 1}.pathway0_res{found[2]}."),
    (r"^blocks\.0\.conv\.conv_t\.", "s1.pathway0_stem.conv_xy."),
    (r"^blocks\.0\.conv\.conv_xy\.", "s1.pathway0_stem.conv."),
    (r"^blocks\.0\.", "s1.pathway0_stem."),
    (r"conv_fast_to_slow", "conv_f2s"),
    (r"_stem\.norm\.", "_stem.bn."),
    (r"_fuse\.norm\.", "_fuse.bn."),
    (r"branch1_conv", "branch1"),
    (r"branch1_norm", "branch1_bn"),
    (r"norm_b\.1\.block\.0", "se.fc1"),
    (r"norm_b\.1\.block\.2", "se.fc2"),
    (r"branch2\.norm_([abc])(\.0)?\.", r"branch2.\1_bn."),
    (r"branch2\.conv_([abc])\.", r"branch2.\1."),
    (r"^blocks\.\d\.proj\.", "head.projection."),
    (r"^blocks\.5\.pool\.pre_conv\.", "head.conv_5."),
    (r"^blocks\.5\.pool\.pre_norm\.", "head.conv_5_bn."),
    (r"^blocks\.5\.pool\.post_conv\.", "head.lin_5."),
]


def pyslowfast_name(name: str) -> str:
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    assert not name.startswith("blocks"), name
    return name


def renamed(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    if "blocks.5.res_blocks.0.branch1_conv.weight" in state:  # a pool, blocks.2, is no stage of PySlowFast's
        before = re.compile(r"^blocks\.([345])\.")
        state = {before.sub(lambda at: f"blocks.{int(at[1]) - 1}.", name): of for name, of in state.items()}
    names = {pyslowfast_name(name): tensor for name, tensor in state.items()}
    assert len(names) == len(model.state_dict())
    return names


def saved(weights, path):
    torch.save({"epoch": 195, "model_state": weights, "optimizer_state": {}, "cfg": "BN:\n"}, path)
    return path


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(torch.randn(1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(
    "name",
    [
        "x3d_xs",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("slowfast_r50", "i3d_r50", "c2d_r50")),
    ],
)
def test_networks_of_pytorchvideo(name, tmp_path):
    theirs = randomize(lambda: from_pytorchvideo(name, 5))
    ours = unfilled(lambda: from_pytorchvideo(name, 5))
    report = load_foreign(ours, saved(renamed(theirs), tmp_path / "weights.pyth"))
    assert report.layout == "PySlowFast" and report.tensors == len(theirs.state_dict())
    assert not report.new and not report.left_over
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-5)


def test_every_name_of_slowfast_is_known():
    with torch.device("meta"):
        theirs = hub.slowfast_r50()
    weights = {name: torch.empty(0) for name in renamed(theirs)}
    assert pyslowfast.translate(weights, theirs).keys() == theirs.state_dict().keys()


def slow() -> nn.Module:
    return hub.slow_r50(stem_dim_out=2, model_num_class=3)


def test_resnet3d(tmp_path):
    theirs = randomize(slow)
    ours = unfilled(lambda: ResNet3d(50, "slow", num_classes=3, width=2))
    load_foreign(ours, saved(renamed(theirs), tmp_path / "weights.pyth"))
    head = theirs.blocks[-1]
    head.pool, head.dropout = nn.AdaptiveAvgPool3d(1), None
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-5)


def with_splits(weights: dict[str, Tensor], splits: int) -> dict[str, Tensor]:
    """As in a model of Sub-BN, whose own union is that of a start."""
    sub = {}
    for name, tensor in weights.items():
        found = re.fullmatch(r"(.*bn)\.(running_mean|running_var|num_batches_tracked)", name)
        if not found:
            sub[name] = tensor
            continue
        norm, statistic = found.groups()
        union = {"running_mean": torch.zeros_like, "running_var": torch.ones_like}.get(statistic, torch.clone)
        sub[f"{norm}.bn.{statistic}"] = union(tensor)
        if statistic == "num_batches_tracked":
            sub[f"{norm}.split_bn.{statistic}"] = tensor
        elif statistic == "running_mean":  # mean - 1/2, mean + 1/2, which add 1/4 to the variance
            parts = [tensor + (-0.5 if split % 2 else 0.5) for split in range(splits)]
            sub[f"{norm}.split_bn.{statistic}"] = torch.cat(parts)
        else:
            sub[f"{norm}.split_bn.{statistic}"] = torch.cat([tensor - 0.25] * splits)
    return sub


def test_sub_batch_norm_of_theirs_is_batch_norm_here(tmp_path):
    theirs = randomize(slow)
    weights = {n: t + 1 if n.endswith("running_var") else t for n, t in renamed(theirs).items()}
    norms = BatchNorm3d, BatchNorm3d, SubBatchNorm3d
    plain, sub, sub_to_sub = (
        unfilled(lambda norm=norm: ResNet3d(50, "slow", num_classes=3, width=2, norm=norm)) for norm in norms
    )
    load_foreign(plain, weights)
    load_foreign(sub, saved(with_splits(weights, 4), tmp_path / "weights.pyth"))
    report = load_foreign(sub_to_sub, weights)
    assert not report.new and not report.left_over
    expected = logits(plain)
    torch.testing.assert_close(logits(sub), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(sub_to_sub), expected, atol=1e-5, rtol=1e-5)
    norm = sub_to_sub.stem.norm
    assert torch.equal(norm.split_mean, norm.running_mean.expand(2, -1))
