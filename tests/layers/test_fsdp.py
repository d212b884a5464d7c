"""FSDP1 and FSDP2 around any part of a grouped model: two processes train as one."""

import tempfile
from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from videonorm.layers import GroupNorm3d, WSConv3d
from videonorm.models import ResNet3d
from videonorm.models.resnet3d import ResidualBlock

PARTS = {"stages": nn.Sequential, "blocks": ResidualBlock, "convolutions": WSConv3d}


def make_model() -> ResNet3d:
    torch.manual_seed(0)
    norm, conv = partial(GroupNorm3d, num_groups=4), partial(WSConv3d, variant="nf")
    return ResNet3d(10, num_classes=3, width=8, norm=norm, conv=conv, zero_init_residual=False)


def train(model: nn.Module, clips: torch.Tensor) -> torch.Tensor:
    """The logits after three steps."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(clips).square().mean().backward()
        optimizer.step()
    return model(clips).detach()


def fsdp2(model: nn.Module, part: type) -> nn.Module:
    mesh = init_device_mesh("cpu", (2,))
    for module in [*(module for module in model.modules() if isinstance(module, part)), model]:
        fully_shard(module, mesh=mesh)
    return model


def fsdp1(model: nn.Module, part: type, use_orig_params: bool) -> nn.Module:
    policy = ModuleWrapPolicy({part})
    cpu = torch.device("cpu")
    return FullyShardedDataParallel(
        model, auto_wrap_policy=policy, use_orig_params=use_orig_params, device_id=cpu
    )


def run_half(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(minutes=2))
    clips = torch.randn(4, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    half = slice(2 * rank, 2 * rank + 2)
    want = train(make_model(), clips)[half]
    wraps = fsdp2, partial(fsdp1, use_orig_params=True), partial(fsdp1, use_orig_params=False)
    for part in PARTS.values():
        for wrap in wraps:
            got = train(wrap(make_model(), part), clips[half])
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_as_one() -> None:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run_half, (folder,), nprocs=2)
