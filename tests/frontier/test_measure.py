"""What fits and how fast it is: the search, the processes that try, and what is made of their answers."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from running import runs

from videonorm.errors import UserError
from videonorm.frontier import measure as measuring
from videonorm.frontier import recipe as recipe_module
from videonorm.frontier.command import main
from videonorm.frontier.measure import Device, largest, measure, run_steps
from videonorm.frontier.memory import Footprint
from videonorm.frontier.plan import GIB, Question
from videonorm.frontier.probe import Trainer
from videonorm.frontier.recipe import build

CONFIGS = Path(__file__).parents[2] / "configs"
DEVICE = Device("a device", 0.25, 0.0)


@pytest.mark.parametrize("guess", [0, 1, 2, 17, 64, 500])
def test_the_search_finds_every_size_from_every_guess(guess):
    for most in [*range(40), 63, 64, 65, 1000]:
        tried = []

        def fits(size, most=most, tried=tried):
            tried.append(size)
            return size <= most

        assert largest(fits, guess) == most
        assert len(set(tried)) == len(tried) and min(tried) >= 1


def test_near_its_guess_the_search_is_short():
    for most in range(90, 111):
        tried = []
        largest(lambda size, most=most, tried=tried: tried.append(size) or size <= most, 100)
        assert len(tried) <= 7


def test_a_step_is_the_recipes(tiny):
    """Of an optimizer, after as many passes as it accumulates; of its own seed, in its layout."""
    recipe = replace(tiny, accumulate=2, settings={"data": {"channels_last": True}})
    torch.manual_seed(0)
    trainer = Trainer(recipe, torch.device("cpu"))
    clips, labels = trainer.clips(2, 4, 16)
    assert clips.is_contiguous(memory_format=torch.channels_last_3d)
    torch.manual_seed(0)
    make_model, make_optimizer = build(recipe)
    model = make_model()
    optimizer = make_optimizer(model.parameters())
    assert trainer.step(clips, labels) > 0
    for _ in range(2):
        F.cross_entropy(model(clips), labels).backward()
    optimizer.step()
    for ours, theirs in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.grad is None


def test_accumulated_batch_norm_has_another_step(tiny):
    norm = {"class_path": "videonorm.layers.AccumulatedBatchNorm3d"}
    init_args = {**tiny.backbone["init_args"], "norm": norm}
    alone = replace(tiny, backbone={**tiny.backbone, "init_args": init_args})
    assert build(alone)[0]()
    with pytest.raises(UserError, match=r"grad_batches \(2\) must be 1 for AccumulatedBatchNorm3d"):
        build(replace(alone, accumulate=2))[0]()


def holding(gib_of_clip, calls=None):
    """A device whose steps take memory in proportion to the clips, and a second for ten clips."""

    def run(question, batch_sizes, steps, device):
        if calls is not None:
            calls.append(batch_sizes[0])
        peak = gib_of_clip * question.num_frames * batch_sizes[0]
        if peak > device.gib_memory:
            return {"too_large": ""}
        seconds = {str(size): [3.0, size / 10, 0.0] for size in batch_sizes}
        return {"peak": peak * GIB, "held": 0, "seconds": seconds}

    return run


@pytest.fixture(autouse=True)
def plan(monkeypatch):
    """By which a clip takes 0.0005 GiB a frame."""
    per_frame = int(0.0005 * GIB)
    monkeypatch.setattr(
        measuring, "footprint", lambda of: Footprint(0, 0, np.array([[0, per_frame * of.num_frames]]))
    )


@pytest.fixture
def loads(monkeypatch):
    """Loaders of 5 clips a second; what they were asked for."""
    asked = []

    def rate(self, question, data):
        asked.append(data)
        return 5.0

    monkeypatch.setattr(measuring._Loads, "_measure", rate)
    return asked


def test_rows_have_what_was_measured_beside_what_was_planned(tiny, loads, monkeypatch):
    calls, said = [], []
    monkeypatch.setattr(measuring, "run_steps", holding(0.003, calls))
    recipes = {"bn": tiny, "bn_twice": replace(tiny, accumulate=2)}
    questions = [Question(norm, recipe, T, 16) for norm, recipe in recipes.items() for T in (4, 8)]
    rows = list(measure(questions, DEVICE, said.append))
    assert [row.max_batch_size for row in rows] == [20, 10, 20, 10]  # 0.25 / 0.003 / T
    assert [row.planned_batch_size for row in rows] == [125, 62, 125, 62]  # 0.25 / 0.0005 / T
    for row in rows:
        planned = 0.0005 * row.num_frames * row.max_batch_size
        assert row.planned_gib_at_max == pytest.approx(planned, rel=1e-4)
        assert row.gib_at_max == pytest.approx(0.003 * row.num_frames * row.max_batch_size)
        assert row.plan_error_percent == pytest.approx(100 * (1 / 6 - 1), rel=1e-4)
        assert row.clips_per_second == pytest.approx(10 * row.accumulate)
        assert row.frames_per_second == pytest.approx(10 * row.accumulate * row.num_frames)
        assert row.fastest_batch_size == row.max_batch_size and row.decode_bound
    # What is known of the first is where the search of the next begins.
    second = calls.index(20, calls.index(20) + 1) + 1
    assert abs(calls[second] - 10) <= 1
    # The clips are those of both norms.
    assert loads == [{"num_frames": T, "crop_size": 16, "batch_size": 16} for T in (4, 8)]
    assert "bn, T = 8, 16 x 16: B = 10, its speed" in said


def test_a_batch_that_fits_once_and_not_again(tiny, loads, monkeypatch):
    run = holding(0.003)

    def at_the_limit(question, sizes, *rest):
        return {"too_large": ""} if len(sizes) > 1 and sizes[0] > 18 else run(question, sizes, *rest)

    monkeypatch.setattr(measuring, "run_steps", at_the_limit)
    (row,) = measure([Question("bn", tiny, 4, 16)], DEVICE, print)
    assert row.max_batch_size == 18


@pytest.mark.parametrize("holds", [1, 2, 3])
def test_a_norm_that_refuses_one_clip_has_what_fits_above(holds, tiny, loads, monkeypatch):
    run = holding(0.25 / 4 / (holds + 0.5))

    def refusing(question, sizes, *rest):
        return {"refused": "one clip"} if sizes[0] == 1 else run(question, sizes, *rest)

    monkeypatch.setattr(measuring, "run_steps", refusing)
    (row,) = measure([Question("bn", tiny, 4, 16)], DEVICE, print)
    assert row.max_batch_size == (holds if holds > 1 else 0)


def test_what_fits_nowhere_has_no_figures(tiny, loads, monkeypatch, tmp_path):
    monkeypatch.setattr(measuring, "run_steps", holding(1.0))
    monkeypatch.setattr(measuring, "device_here", lambda: ("a device", None))
    monkeypatch.setattr(recipe_module, "read_recipe", lambda configs: tiny)
    out = tmp_path / "m.csv"
    with pytest.raises(UserError, match=r"^--memory_gib \(0.25\) must hold a batch"):
        main(["measure", "-c", "r.yaml", "--out", str(out)])
    (row,) = csv.DictReader(out.open())
    assert row["max_batch_size"] == "0" and not row["clips_per_second"] and not row["loader_error"]


def test_from_options_to_table_and_sentence(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(measuring, "run_steps", holding(0.003))
    monkeypatch.setattr(measuring, "device_here", lambda: ("a device", None))
    monkeypatch.setattr(measuring._Loads, "_measure", lambda self, question, data: "train.csv is not there")
    monkeypatch.setattr(recipe_module, "read_recipe", lambda configs: tiny)
    out = tmp_path / "m.csv"
    main(["measure", "-c", "r.yaml", "--memory_gib", "0.5", "--num_frames", "4", "8", "--out", str(out)])
    rows = list(csv.DictReader(out.open()))
    assert [row["max_batch_size"] for row in rows] == ["41", "20"]
    for row in rows:
        assert row["device"] == "a device" and row["torch"] == torch.__version__.partition("+")[0]
        assert (row["loader_clips_per_second"], row["decode_bound"]) == ("", "")
        assert row["loader_error"] == "train.csv is not there"
    printed = capsys.readouterr().out
    assert "no loader was measured: train.csv is not there" in printed and "not measured" in printed
    assert printed.endswith(f"0.5 GiB hold 8 x 20 clips with recipe.\n{out}\n")


def test_what_was_measured_is_kept(tiny, loads, monkeypatch, tmp_path):
    def stopped(question, *rest):
        if question.num_frames == 8:
            signal.raise_signal(signal.SIGINT)
        return holding(0.003)(question, *rest)

    monkeypatch.setattr(measuring, "run_steps", stopped)
    monkeypatch.setattr(measuring, "device_here", lambda: ("a device", None))
    monkeypatch.setattr(recipe_module, "read_recipe", lambda configs: tiny)
    out = tmp_path / "m.csv"
    with pytest.raises(SystemExit) as stop:
        main(["measure", "-c", "r.yaml", "--num_frames", "4", "8", "--out", str(out)])
    assert stop.value.code == 130
    assert [row["num_frames"] for row in csv.DictReader(out.open())] == ["4"]


@pytest.mark.parametrize(
    "options, gib, sentence",
    [
        (["--memory_gib", "2"], 40.0, r"--memory_gib \(2\) must be above --reserve_gib \(2\)"),
        (["--memory_gib", "50"], 40.0, r"--memory_gib \(50\) must be at most that of a device \(40.0\)"),
        (["--num_frames", "8", "8"], None, r"--num_frames \(8 8\) must not repeat a value"),
        (["--out", "/dev/null"], None, r"--out \(/dev/null\) must be a file that can be written"),
    ],
)
def test_mistakes(options, gib, sentence, tiny, monkeypatch):
    monkeypatch.setattr(measuring, "device_here", lambda: ("a device", gib))
    monkeypatch.setattr(recipe_module, "read_recipe", lambda configs: tiny)
    with pytest.raises(UserError, match=sentence):
        main(["measure", "-c", "r.yaml", *options])


@pytest.mark.slow
def test_processes_tell_what_fits(tiny):
    question, no_limit = Question("bn", tiny, 4, 16), Device("", 100.0, 0.0)
    answer = run_steps(question, [4, 2, 1], 3, no_limit)
    assert answer["peak"] > 0 and {size: len(of) for size, of in answer["seconds"].items()} == {
        "4": 3,
        "2": 3,
    }
    assert "too_large" in run_steps(question, [512], 1, Device("", 0.02, 0.0))  # it ended itself
    assert "at least 2" in run_steps(question, [1], 1, no_limit)["refused"]  # BN refuses one clip
    group_norm = {"class_path": "videonorm.layers.GroupNorm3d", "init_args": {"num_groups": 3}}
    backbone = {**tiny.backbone, "init_args": {**tiny.backbone["init_args"], "norm": group_norm}}
    with pytest.raises(UserError, match="num_groups"):
        run_steps(Question("gn", replace(tiny, backbone=backbone), 4, 16), [2], 1, no_limit)


def measure_on_motion_clips(tmp_path, *options):
    (tmp_path / "small.yaml").write_text(
        "model: {backbone: {init_args: {width: 4}}}\n"
        "data: {crop_size: 16, source: {class_path: videonorm.data.MotionClips,"
        " init_args: {num_train: 16, num_val: 4, num_test: 4}}}\n"
    )
    recipe = ["-c", str(CONFIGS / "motion_r10.yaml"), "-c", str(tmp_path / "small.yaml")]
    command = [sys.executable, "-m", "videonorm", "frontier", "measure", *recipe, *options]
    return subprocess.Popen(
        [*command, "--out", str(tmp_path / "m.csv")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_the_whole_road(tmp_path):
    """From a recipe's file to plan, real steps, real clips and the table."""
    process = measure_on_motion_clips(tmp_path, "--num_frames", "2", "--memory_gib", "0.03")
    printed, said = process.communicate()
    assert process.returncode == 0, said
    (row,) = csv.DictReader((tmp_path / "m.csv").open())
    assert int(row["max_batch_size"]) >= 1 and 0 < float(row["gib_at_max"]) <= 0.03
    assert float(row["clips_per_second"]) > 0 and float(row["loader_clips_per_second"]) > 0
    assert row["loader_error"] == "" and row["decode_bound"] in ("True", "False")
    assert f"0.03 GiB hold 2 x {row['max_batch_size']} clips with recipe." in printed


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_running(tmp_path):
    process = measure_on_motion_clips(tmp_path, "--num_frames", "2", "4")
    deadline = time.monotonic() + 120
    while not (probes := _children(process.pid, "frontier.probe")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert probes
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and "what was measured by then is in" in said
    assert not any(runs(pid) for pid in probes)


def _children(parent: int, name: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            of = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if of == parent and name in (path / "cmdline").read_text():
                found.append(int(path.name))
        except OSError:  # it has ended
            continue
    return found
