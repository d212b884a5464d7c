"""Bytes that a clip keeps for backward, counted on fake CUDA tensors, where nothing is allocated."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from videonorm.layers import BatchNorm3d, GroupNorm3d, Norm, WSConv3d
from videonorm.models import ResNet3d, VGG3d

MIB = 2**20
README = Path(__file__).parents[2] / "README.md"


class TorchGroupNorm(Norm):
    """torch's own group norm, addition and ReLU."""

    def __init__(self, num_channels: int) -> None:
        super().__init__(num_channels)
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def normalize(self, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, self.weight, self.bias)


OPTIONS = {
    "bn": {"norm": BatchNorm3d},
    "gn": {"norm": GroupNorm3d},
    "gn_ws": {"norm": GroupNorm3d, "conv": WSConv3d},
    "gn, recompute_norms": {"norm": GroupNorm3d, "recompute_norms": True},
    "gn_ws, recompute_norms": {"norm": GroupNorm3d, "conv": WSConv3d, "recompute_norms": True},
    "F.group_norm": {"norm": TorchGroupNorm},
}
MODELS = {
    "i3d-r50": partial(ResNet3d, 50, "i3d"),
    "r3d-18": partial(ResNet3d, 18, "r3d"),
    "vgg3d-11": partial(VGG3d, 11),
}


@contextmanager
def cuda_autocast(dtype: torch.dtype = torch.bfloat16) -> Iterator[None]:
    """``torch.autocast("cuda", dtype)``, which turns itself off on a machine without a GPU."""
    torch.set_autocast_dtype("cuda", dtype)
    torch.set_autocast_enabled("cuda", True)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()


def saved_bytes(make: Callable[[], nn.Module], num_clips: int, num_frames: int = 32, size: int = 224) -> int:
    with FakeTensorMode():
        with torch.device("cuda"):
            model = make()
        clips = torch.empty(num_clips, 3, num_frames, size, size, device="cuda")
        clips = clips.contiguous(memory_format=torch.channels_last_3d)
        parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        saved = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage._cdata] = storage  # held, so that no other gets its address
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), cuda_autocast():
            logits = model(clips)
        assert logits.dtype == torch.bfloat16
        return sum(storage.nbytes() for address, storage in saved.items() if address not in parameters)


def saved_bytes_per_clip(make: Callable[[], nn.Module]) -> int:
    """What one clip more costs: without bf16 copies of the weights, which all clips share."""
    return saved_bytes(make, 3) - saved_bytes(make, 2)


@pytest.mark.parametrize("name", MODELS)
def test_saved_bytes_per_clip(name):
    count = {options: saved_bytes_per_clip(partial(MODELS[name], **OPTIONS[options])) for options in OPTIONS}
    share = {options: count[options] / count["bn"] for options in OPTIONS}
    print(f"\n{name}, T=32, 224 x 224, bf16 autocast: saved for backward")
    for options in OPTIONS:
        print(f"{options:24}{count[options] / MIB:8.0f} MiB a clip{share[options]:8.3f} of bn")
    columns = ("bn", "gn", "gn_ws", "gn_ws, recompute_norms", "F.group_norm")
    row = " | ".join([name, *(f"{count[options] / MIB:,.0f}" for options in columns)])
    assert f"| {row} |" in README.read_text()
    assert share["gn"] == pytest.approx(1, abs=0.01)
    assert share["gn_ws"] == pytest.approx(1, abs=0.01)
    assert share["gn, recompute_norms"] <= 0.8
    assert share["gn_ws, recompute_norms"] <= 0.8
    assert share["F.group_norm"] > 1.6
