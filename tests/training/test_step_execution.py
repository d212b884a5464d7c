"""How a step may run the network is refused in a sentence, where it cannot, before anything is written."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from torch import nn

from videonorm.errors import UserError
from videonorm.layers import (
    AccumulatedBatchNorm3d,
    BatchNorm3d,
    GroupNorm3d,
    MovingAverageBatchNorm3d,
    SyncBatchNorm3d,
)
from videonorm.training.cli import main
from videonorm.training.step_execution import StepExecution

WAYS = {
    "compile": {"compile": "default", "cuda_graph": False},
    "reduce_overhead": {"compile": "reduce-overhead", "cuda_graph": False},
    "cuda_graph": {"compile": None, "cuda_graph": True},
}
ON_CUDA = SingleDeviceStrategy(torch.device("cuda", 0))
ON_CPU = SingleDeviceStrategy(torch.device("cpu"))
DDP = object.__new__(DDPStrategy)
SHARDED = object.__new__(FSDPStrategy)
GN, SWA = partial(GroupNorm3d, num_groups=2), StochasticWeightAveraging(0.1)


def training(strategy=ON_CUDA, accumulate_grad_batches=1, world_size=1, callbacks=()):
    return SimpleNamespace(
        strategy=strategy,
        accumulate_grad_batches=accumulate_grad_batches,
        world_size=world_size,
        callbacks=callbacks,
    )


def check(way, norm, **options):
    StepExecution(nn.Sequential(norm(4)), **WAYS[way]).check(training(**options))


@pytest.mark.parametrize(
    "way, norm, options",
    [
        ("compile", GN, {"strategy": ON_CPU}),
        ("compile", BatchNorm3d, {"strategy": DDP, "world_size": 2, "accumulate_grad_batches": 4}),
        ("compile", SyncBatchNorm3d, {"strategy": DDP}),
        ("compile", AccumulatedBatchNorm3d, {}),
        ("compile", GN, {"callbacks": [SWA]}),
        ("reduce_overhead", BatchNorm3d, {}),
        ("cuda_graph", BatchNorm3d, {"accumulate_grad_batches": 4}),
        ("cuda_graph", MovingAverageBatchNorm3d, {}),
    ],
)
def test_what_can_be(way, norm, options):
    check(way, norm, **options)


NULL = r"model.compile \(default\) must be null "
RO = r"model.compile \(reduce-overhead\) must be null "
FALSE = r"model.cuda_graph \(true\) must be false "
COUNTS = partial(BatchNorm3d, momentum=None)
REFUSED = {
    "reduce_overhead_cpu": ("reduce_overhead", GN, {"strategy": ON_CPU}, RO + "on cpu: only a CUDA device"),
    "cuda_graph_cpu": ("cuda_graph", GN, {"strategy": ON_CPU}, FALSE + "on cpu: only a CUDA device"),
    "reduce_overhead_ddp": ("reduce_overhead", GN, {"strategy": DDP}, RO + "with DDPStrategy: .* one device"),
    "cuda_graph_ddp": ("cuda_graph", GN, {"strategy": DDP}, FALSE + "with DDPStrategy: .* one device"),
    "compile_fsdp": (
        "compile",
        GN,
        {"strategy": SHARDED},
        NULL + "with FSDPStrategy: no device has the whole",
    ),
    "cuda_graph_fsdp": ("cuda_graph", GN, {"strategy": SHARDED}, FALSE + "with FSDPStrategy"),
    "reduce_overhead_accumulated": (
        "reduce_overhead",
        GN,
        {"accumulate_grad_batches": 2},
        r"trainer.accumulate_grad_batches \(2\) must be 1 with model.compile \(reduce-overhead\), whose",
    ),
    "compile_shared": (
        "compile",
        AccumulatedBatchNorm3d,
        {"accumulate_grad_batches": 2},
        NULL + r"for AccumulatedBatchNorm3d with trainer.accumulate_grad_batches \(2\)",
    ),
    "cuda_graph_shared": (
        "cuda_graph",
        AccumulatedBatchNorm3d,
        {"accumulate_grad_batches": 2},
        FALSE + r"for AccumulatedBatchNorm3d with trainer.accumulate_grad_batches \(2\)",
    ),
    "compile_counts": ("compile", COUNTS, {}, NULL + "for BatchNorm3d with momentum null"),
    "cuda_graph_counts": ("cuda_graph", COUNTS, {}, FALSE + "for BatchNorm3d with momentum null"),
    "compile_swa": ("compile", BatchNorm3d, {"callbacks": [SWA]}, NULL + r"with trainer.callbacks \(Stoch"),
    "cuda_graph_swa": ("cuda_graph", BatchNorm3d, {"callbacks": [SWA]}, FALSE + r"with trainer.callbacks"),
    "compile_mabn": ("compile", MovingAverageBatchNorm3d, {}, NULL + "for MovingAverageBatchNorm3d, whose"),
    "compile_sync_bn": (
        "compile",
        SyncBatchNorm3d,
        {"strategy": DDP, "world_size": 2},
        NULL + r"for SyncBatchNorm3d with trainer.devices \(2\)",
    ),
}


@pytest.mark.parametrize("way, norm, options, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be(way, norm, options, message):
    with pytest.raises(UserError, match=message):
        check(way, norm, **options)


def test_a_network_is_compiled_or_captured():
    with pytest.raises(
        UserError, match=r"model.cuda_graph \(true\) must be false with model.compile \(default\)"
    ):
        StepExecution(nn.Identity(), "default", True)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--model.cuda_graph", "true"], FALSE + "on cpu"),
        (
            ["--model.cuda_graph=true", "--trainer.callbacks=videonorm.training.Multigrid"],
            FALSE + "with Multigrid: its graphs are of one shape, not",
        ),
        (["--model.compile", "max"], r"model.compile.*max"),
    ],
    ids=["cpu", "multigrid", "mode"],
)
def test_nothing_is_written_by_a_run_that_is_refused(recipe, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        main(["fit", "-c", str(recipe), "--trainer.default_root_dir", str(tmp_path / "run"), *options])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_compiled_run_says_so_and_goes_on_without(recipe, tmp_path, traced, capsys):
    command = ["fit", "-c", str(recipe), "--trainer.default_root_dir", str(tmp_path), "--model.compile"]
    main([*command, "default", "--trainer.max_steps", "3"])
    assert traced == ["default"] and "the first step compiles the network" in capsys.readouterr().out
    record = json.loads((tmp_path / "run.json").read_text())
    assert [record[key] for key in ("compile", "cuda_graph", "replayed_batches")] == ["default", False, None]
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not any("_orig_mod" in key for key in state)
    main([*command, "null", "--trainer.max_steps", "5", "--ckpt_path", "last"])
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["compile"] is None and record["step"] == 5
