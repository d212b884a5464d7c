"""Sweeps without training: made-up results, and a stand-in for `videonorm fit`."""

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from videonorm.sweep.results import Result

SWEEP = """\
name: tiny
recipe: recipe.yaml
norms: {bn: [bn.yaml], gn_ws: [gn_ws.yaml]}
num_frames: [4, 8]
frames_per_step: 16
budget: {steps: 10}
"""

# What a stand-in for `videonorm fit` can use: its options, its run folder, and `record` to write run.json.
PRELUDE = """\
import json, os, signal, sys, time
from pathlib import Path

options = dict(argument[2:].split("=", 1) for argument in sys.argv[1:] if argument.startswith("--"))
folder = Path(options["trainer.default_root_dir"])
num_frames, batch_size = int(options["data.num_frames"]), int(options["data.batch_size"])
(folder / "calls.txt").open("a").write(" ".join(sys.argv[1:]) + "\\n")

def record(status="done", **more):
    run = dict(
        status=status, conv="Conv3d", accumulate=1, frames_per_step=num_frames * batch_size, lr=0.1, step=10,
        total_steps=10, steps=10, clips_seen=10 * batch_size, frames_seen=10 * batch_size * num_frames,
        val_top1=0.5 + num_frames / 100, val_top5=0.9, val_loss=1.25, val_videos=400.0, train_seconds=2.0,
        clips_per_second=20.0, peak_memory_mib=300.5, machine={"device": "cpu", "cores": 2},
        versions={"torch": "2"}, commit="abc",
    )
    (folder / "run.tmp").write_text(json.dumps({**run, **more}))
    os.replace(folder / "run.tmp", folder / "run.json")

"""


@pytest.fixture(scope="module", autouse=True)
def little_garbage() -> Iterator[None]:
    """statsmodels collects garbage in every correction: half a second where all libraries are loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    """A sweep of four runs: bn and gn_ws, T=4 with B=4 and T=8 with B=2."""
    (tmp_path / "recipe.yaml").write_text("data: {frame_stride: 2}\nmodel: {width: 8}\n")
    (tmp_path / "bn.yaml").write_text("model: {norm: bn}\n")
    (tmp_path / "gn_ws.yaml").write_text("model: {norm: gn_ws}\n")
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    return path


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[[str], tuple[str, str]]:
    """Makes a command in place of `videonorm fit` from a few lines of Python."""

    def make(lines: str) -> tuple[str, str]:
        script = tmp_path / "stand_in.py"
        script.write_text(PRELUDE + lines)
        return sys.executable, str(script)

    return make


@pytest.fixture(scope="session")
def result() -> Callable[..., Result]:
    """Makes one row of results.csv."""

    def make(
        arm: str, num_frames: int, batch_size: int, top1: float | None, seed: int = 0, **more: Any
    ) -> Result:
        values = {
            "run": f"{arm.replace('_', '-')}_{num_frames}x1_b{batch_size}_s{seed}",
            "norm": arm,
            "conv": "Conv3d",
            "num_frames": num_frames,
            "frame_stride": 1,
            "batch_size": batch_size,
            "accumulate": 1,
            "frames_per_step": num_frames * batch_size,
            "seed": seed,
            "global_batch": batch_size,
            "statistics_batch": None,
            "lr": 0.1,
            "schedule": "WarmupCosine(warmup=0.1)",
            "warmup_steps": 1,
            "steps": 10,
            "epochs": 2.5,
            "clips_seen": 10 * batch_size,
            "frames_seen": 10 * batch_size * num_frames,
            "val_top1": top1,
            "val_top5": 1.0,
            "val_loss": 0.5,
            "train_seconds": 60.0,
            "clips_per_second": 100 / num_frames,
            "peak_memory_mib": 500.0 + num_frames,
            "status": "failed" if top1 is None else "done",
            "val_videos": 400,
            "best_possible_top1": min(1.0, num_frames / 16),
            "num_classes": 8,
            "error": None,
        }
        return Result(**{**values, **more})

    return make
