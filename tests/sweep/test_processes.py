"""Sweeps of real trainings that are asked to end, fail or are killed, with loader processes and without."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from videonorm.sweep.results import read_results

pytestmark = pytest.mark.slow
CONFIGS = Path(__file__).parents[2] / "configs"
SECONDS_TO_END = 30

# From step 5 on a run goes slowly until it is let go, so that it is always caught in the middle.
CALLBACKS = """
import time
from pathlib import Path
from lightning.pytorch import Callback

class Waits(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step >= 5 and not Path("go").exists():
            time.sleep(0.3)

class Fails(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step >= 3 and "_b2_" in trainer.default_root_dir:
            raise RuntimeError("no luck at step 3")
"""


@pytest.fixture(params=[0, 2], ids="{}_workers".format)
def folder(request, tmp_path):
    """A folder with a sweep of two runs and 16 videos, two runs at a time."""
    recipe = yaml.safe_load((CONFIGS / "motion_r10.yaml").read_text())
    sizes = {"root": str(tmp_path / "data"), "num_train": 16, "num_val": 4, "num_test": 4}
    recipe["data"] |= {
        "source": {"class_path": "videonorm.data.MotionClips", "init_args": sizes},
        "num_workers": request.param,
    }
    recipe["trainer"]["val_check_interval"] = 1000
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "slowly.py").write_text(CALLBACKS)
    return tmp_path


def start(folder: Path, callback: str) -> subprocess.Popen[str]:
    sweep = {
        "name": "two",
        "recipe": "recipe.yaml",
        "norms": {"gn": [str(CONFIGS / "norm" / "gn.yaml")]},
        "num_frames": [2],
        "batch_size": [2, 4],
        "budget": {"steps": 40},
        "overrides": {"trainer.callbacks": [{"class_path": f"slowly.{callback}"}]},
        "jobs": 2,
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    path = os.pathsep.join([str(folder), str(CONFIGS.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "videonorm", "sweep", "-c", "sweep.yaml", "--output", "out"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def until_in_the_middle(folder: Path) -> None:
    deadline = time.monotonic() + 240
    while [record["step"] >= 5 for record in records(folder)] != [True, True]:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("out/*/run.json"))]


def processes(folder: Path) -> dict[int, str]:
    """Living processes of the runs and their workers, with their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            state = (path / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"{folder}/out/" in line and state not in "ZX":
            found[int(path.name)] = line
    return found


def until_none_is_left(folder: Path) -> None:
    deadline = time.monotonic() + 3
    while left := processes(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_sweep_that_is_stopped_goes_on_from_its_runs_checkpoints(folder, name, code):
    process = start(folder, "Waits")
    until_in_the_middle(folder)
    assert len(processes(folder)) >= 2
    process.send_signal(getattr(signal, name))
    printed, _ = process.communicate(timeout=SECONDS_TO_END)
    assert process.returncode == code
    assert f"stopped by {name}: 0 of 2 runs are done; the same command goes on" in printed
    until_none_is_left(folder)
    stopped = records(folder)
    assert [record["status"] for record in stopped] == ["stopped", "stopped"]
    assert len(list(folder.glob("out/*/checkpoints/last.ckpt"))) == 2

    (folder / "go").touch()
    process = start(folder, "Waits")
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0 and printed.count("resumed gn_2x1_b") == 2
    rows = read_results(folder / "out" / "results.csv")
    assert [(row.status, row.steps, row.clips_seen) for row in rows] == [("done", 40, 80), ("done", 40, 160)]
    for record, path in zip(stopped, sorted(folder.glob("out/*/metrics.csv")), strict=True):
        steps = [int(line.split(",")[0]) for line in path.read_text().splitlines()[1:]]
        assert steps == sorted(steps) and record["step"] < 40


def test_a_run_that_fails_is_named_and_leaves_nothing(folder):
    process = start(folder, "Fails")
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "gn_2x1_b2_s0 failed: RuntimeError: no luck at step 3" in printed
    until_none_is_left(folder)
    rows = {row.run: row.status for row in read_results(folder / "out" / "results.csv")}
    assert rows == {"gn_2x1_b2_s0": "failed", "gn_2x1_b4_s0": "done"}


def test_a_run_that_is_killed_is_named_and_its_workers_end(folder):
    process = start(folder, "Waits")
    until_in_the_middle(folder)
    of_run = [pid for pid, line in processes(folder).items() if "gn_2x1_b2_s0" in line]
    (leader,) = (pid for pid in of_run if os.getpgid(pid) == pid)
    os.kill(leader, signal.SIGKILL)
    (folder / "go").touch()
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "gn_2x1_b2_s0 failed: killed by SIGKILL, as Linux does when memory runs out" in printed
    until_none_is_left(folder)
