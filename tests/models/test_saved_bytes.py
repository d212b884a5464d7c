"""Bytes that a clip keeps for backward, counted on fake CUDA tensors, where nothing is allocated."""

from functools import partial
from pathlib import Path

import pytest
from fake_cuda import saved_bytes_per_clip

from videonorm.bench.trainer import TorchGroupNorm3d
from videonorm.layers import BatchNorm3d, GroupNorm3d, WSConv3d
from videonorm.models import ResNet3d, VGG3d

MIB = 2**20
README = Path(__file__).parents[2] / "README.md"


OPTIONS = {
    "bn": {"norm": BatchNorm3d},
    "gn": {"norm": GroupNorm3d},
    "gn_ws": {"norm": GroupNorm3d, "conv": WSConv3d},
    "gn, norms": {"norm": GroupNorm3d, "recompute": "norms"},
    "gn_ws, norms": {"norm": GroupNorm3d, "conv": WSConv3d, "recompute": "norms"},
    "gn_ws, blocks": {"norm": GroupNorm3d, "conv": WSConv3d, "recompute": "blocks"},
    "gn_ws, blocks_8bit": {"norm": GroupNorm3d, "conv": WSConv3d, "recompute": "blocks_8bit"},
    "F.group_norm": {"norm": partial(TorchGroupNorm3d, num_groups=32)},
}
MODELS = {
    "i3d-r50": partial(ResNet3d, 50, "i3d"),
    "r3d-18": partial(ResNet3d, 18, "r3d"),
    "vgg3d-11": partial(VGG3d, 11),
}


SHARES = {  # of batch norm's bytes, at most: with blocks, with blocks_8bit
    "i3d-r50": (0.5, 0.35),
    "r3d-18": (0.55, 0.35),
    "vgg3d-11": (0.4, 0.3),
}


@pytest.mark.parametrize(
    "name", ["i3d-r50", *(pytest.param(name, marks=pytest.mark.slow) for name in ("r3d-18", "vgg3d-11"))]
)
def test_saved_bytes_per_clip(name):
    count = {options: saved_bytes_per_clip(partial(MODELS[name], **OPTIONS[options])) for options in OPTIONS}
    share = {options: count[options] / count["bn"] for options in OPTIONS}
    print(f"\n{name}, T=32, 224 x 224, bf16 autocast: saved for backward")
    for options in OPTIONS:
        print(f"{options:24}{count[options] / MIB:8.0f} MiB a clip{share[options]:8.3f} of bn")
    columns = tuple(options for options in OPTIONS if options != "gn, norms")
    row = " | ".join([name, *(f"{count[options] / MIB:,.0f}" for options in columns)])
    assert f"| {row} |" in README.read_text()
    assert share["gn"] == pytest.approx(1, abs=0.01)
    assert share["gn_ws"] == pytest.approx(1, abs=0.01)
    assert share["gn, norms"] <= 0.8
    assert share["gn_ws, norms"] <= 0.8
    assert share["gn_ws, blocks"] <= SHARES[name][0]
    assert share["gn_ws, blocks_8bit"] <= SHARES[name][1]
    assert share["F.group_norm"] > 1.6
