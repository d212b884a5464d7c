"""Two processes with half a batch each against one BatchNorm3d with all of it.

The tests run as one of the two; the other is this file as a script, given a folder for its results.
"""

import copy
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from videonorm.layers import BatchNorm3d, SubBatchNorm3d, SyncBatchNorm3d, convert_sync_batch_norm

CASES = {  # (dtype, clips in the first process, in the other)
    "fp32": (torch.float32, 2, 2),
    "fp64": (torch.float64, 2, 2),
    "bf16": (torch.bfloat16, 2, 2),
    "one_clip_each": (torch.float32, 1, 1),
    "no_clip_in_one": (torch.float32, 0, 4),
}
Results = dict[str, dict[str, Tensor]]


def make_model() -> nn.Module:
    torch.manual_seed(0)
    norms = [BatchNorm3d(5), BatchNorm3d(5, activation="relu", momentum=None)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    return nn.Sequential(norms[0], nn.Conv3d(5, 5, 1), norms[1])


def make_clips(dtype: torch.dtype, batch_size: int) -> tuple[Tensor, Tensor]:
    x, grad_y = torch.randn(2, batch_size, 5, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    clip = torch.arange(batch_size).view(-1, 1, 1, 1, 1)
    return (30 + clip + (1 + clip) * x).to(dtype), grad_y.to(dtype)  # the halves differ in mean and spread


def step(model: nn.Module, x: Tensor, grad_y: Tensor) -> dict[str, Tensor]:
    """Train on two batches: what came out, the gradients, and the state they left."""
    x = x.clone().requires_grad_()
    model(x + 1)
    y = model(x)
    y.backward(grad_y)
    grads = {f"grad {name}": p.grad for name, p in model.named_parameters()}
    evaluated = model.eval()(x).detach()
    return {"y": y.detach(), "grad x": x.grad, **grads, **model.state_dict(), "evaluated": evaluated}


def assert_no_clips_leave_the_statistics() -> None:
    """Where no process has any, and where they are not tracked."""
    model, twin = convert_sync_batch_norm(make_model()), make_model()
    clips, _ = make_clips(torch.float32, 2)
    model(clips)
    before = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    assert model(clips[:0]).shape == clips[:0].shape
    for module in model.modules():
        module.track_running_stats = False
    torch.testing.assert_close(model(clips), twin(clips))  # both processes have the same clips
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def run_half(rank: int, directory: Path) -> Results:
    store = f"file://{directory / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(minutes=2))
    try:
        results = {}
        for name, (dtype, *sizes) in CASES.items():
            model = convert_sync_batch_norm(make_model()).to(dtype)
            halves = (t.split(sizes)[rank] for t in make_clips(dtype, sum(sizes)))
            results[name] = step(model, *halves)
        assert SyncBatchNorm3d(5).statistics_batch(3) == 6
        assert_no_clips_leave_the_statistics()
    finally:
        dist.destroy_process_group()
    return results


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> tuple[Results, Results]:
    directory = tmp_path_factory.mktemp("sync_batch_norm")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, __file__, str(directory)], env=environment) as other:
        try:
            first = run_half(0, directory)
            assert other.wait(timeout=60) == 0
        finally:
            other.kill()
    return first, torch.load(directory / "second.pt", weights_only=True)


@pytest.mark.parametrize("name", CASES)
def test_two_halves_equal_the_whole(halves, name):
    """Values join, parameters' gradients add up, and both processes have the whole's running statistics."""
    dtype, *sizes = CASES[name]
    clips = make_clips(dtype, sum(sizes))
    whole = step(make_model().to(dtype), *clips)
    exact = step(make_model().double(), *(t.double() for t in clips))
    for key, want in exact.items():
        first, second = (half[name][key] for half in halves)
        if key in ("y", "grad x", "evaluated"):
            got = torch.cat([first, second])
        elif key.startswith("grad"):
            got = first + second
        else:
            assert torch.equal(first, second)
            got = first
        if dtype == torch.float64:
            torch.testing.assert_close(got, want)
            continue
        error, eager = ((t.double() - want).abs().max() for t in (got, whole[key]))
        ulp = torch.finfo(dtype).eps * want.abs().max().clamp(min=1)
        assert error <= 2 * eager + 2 * ulp, f"{key}: error {error:.3g}, of the whole {eager:.3g}"


def test_one_process_is_batch_norm():
    clips = make_clips(torch.float32, 4)
    model = convert_sync_batch_norm(make_model())
    for got, want in zip(step(model, *clips).values(), step(make_model(), *clips).values(), strict=True):
        assert torch.equal(got, want)


def test_too_few_clips():
    message = r"batch_size \* processes \(1\) must be at least 2 for SyncBatchNorm3d in training"
    with pytest.raises(ValueError, match=message):
        SyncBatchNorm3d(5)(make_clips(torch.float32, 1)[0])


def test_conversion_keeps_parameters_and_options():
    norm = BatchNorm3d(5, eps=1e-3, momentum=None, min_clips=3, activation="relu").eval()
    norm.track_running_stats = False
    model = nn.ModuleDict({"norm": norm, "inner": nn.Sequential(copy.deepcopy(norm), SubBatchNorm3d(5, 2))})
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    assert convert_sync_batch_norm(model) is model
    sync = model["norm"]
    assert [type(m) for m in (sync, *model["inner"])] == [SyncBatchNorm3d, SyncBatchNorm3d, SubBatchNorm3d]
    assert (sync.eps, sync.momentum, sync.min_clips) == (1e-3, None, 3)
    assert (sync.activation, sync.training, sync.track_running_stats) == ("relu", False, False)
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert all(b is buffers[name] for name, b in model.named_buffers())
    assert type(convert_sync_batch_norm(norm)) is SyncBatchNorm3d


if __name__ == "__main__":
    torch.save(run_half(1, Path(sys.argv[1])), Path(sys.argv[1]) / "second.pt")
