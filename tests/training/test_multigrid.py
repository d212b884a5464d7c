"""A training whose shape changes: its clips, crops and learning rates, whoever loads, stopped or not."""

import contextlib
import json
import math
import signal

import pytest

from videonorm.errors import UserError
from videonorm.training import LastCheckpoint, Multigrid, VideoClassifier
from videonorm.training.cli import main
from videonorm.training.interruption import Stopped

MULTIGRID = """
model: {backbone: {init_args: {norm: {class_path: videonorm.layers.GroupNorm3d, init_args: {num_groups: 2}}}}}
data: {batch_size: 1}
trainer:
  callbacks:
    - class_path: videonorm.training.Multigrid
      init_args: {long_cycle: [[0.5, 1], [1, 1]], short_cycle: [0.7]}
"""
EPOCHS = ("--trainer.max_steps", -1, "--trainer.max_epochs", 3)
FULL = (1, 3, 4, 16, 16)


@pytest.fixture(scope="module")
def overlay(tmp_path_factory):
    path = tmp_path_factory.mktemp("multigrid") / "multigrid.yaml"
    path.write_text(MULTIGRID)
    return path


@pytest.fixture
def fit(recipe, overlay, tmp_path, monkeypatch):
    """Trains, and says what every batch was: epoch, step, shape, sum, labels, learning rate."""
    training_step, steps = VideoClassifier.training_step, []

    def recorded(self, batch, batch_idx):
        place, rate = (self.current_epoch, self.global_step), self.trainer.optimizers[0].param_groups[0]["lr"]
        seen = tuple(batch.clips.shape), batch.clips.double().sum().item(), batch.label.tolist()
        steps.append((*place, *seen, rate))
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(VideoClassifier, "training_step", recorded)

    def fit(name, *options):
        del steps[:]
        folder = ["--trainer.default_root_dir", str(tmp_path / name)]
        with contextlib.suppress(Stopped):
            main(["fit", "-c", str(recipe), "-c", str(overlay), *folder, *map(str, options)])
        return list(steps)

    return fit


def record_of(folder):
    return json.loads((folder / "run.json").read_text())


def stop_in(step, patch):
    """Ctrl-C in the first batch of a step."""

    def ask(self, trainer, module, batch, batch_idx):
        if trainer.global_step == step and batch_idx % trainer.accumulate_grad_batches == 0:
            signal.raise_signal(signal.SIGINT)

    patch.setattr(LastCheckpoint, "on_train_batch_start", ask)


@pytest.mark.slow
def test_workers_change_nothing(fit):
    assert fit("run", *EPOCHS, "--data.num_workers", 2) == fit("alone", *EPOCHS)


def test_epochs_are_passes_and_the_record_is_what_happened(fit, tmp_path, capsys):
    steps = fit("run", *EPOCHS)
    sizes = "2 clips of 2 x 16 px, 1 clip of 4 x 16 px, crops of 2 sizes in turn; no norm pools clips"
    assert f"multigrid: {len(steps)} steps of {sizes}" in capsys.readouterr().out

    record, shapes = record_of(tmp_path / "run"), [step[2] for step in steps]
    assert record["steps"] == record["total_steps"] == len(steps) == steps[-1][1] + 1
    assert record["clips_seen"] == sum(shape[0] for shape in shapes)
    assert record["frames_seen"] == sum(shape[0] * shape[2] for shape in shapes)
    assert {tuple(row.values()) for row in record["shapes"]} == {
        (shape[2], shape[4], shape[0], shapes.count(shape)) for shape in shapes
    }
    assert (record["num_frames"], record["batch_size"], record["val_videos"]) == (4, 1, 5)
    for epoch in range(3):
        assert sum(shape[0] for place, _, shape, *_ in steps if place == epoch) in (7, 8, 9, 10)
    # The learning rate goes with the schedule and the long cycle's batch, not with the short one's.
    factor = {2: 2, 4: 1}
    for _, step, shape, *_, rate in steps:
        part = step / len(steps)
        cosine = 0.1 + 9 * part if part < 0.1 else (1 + math.cos(math.pi * (part - 0.1) / 0.9)) / 2
        assert rate == pytest.approx(3.2 / 256 * factor[shape[2]] * cosine)
    assert shapes[-2:] == [FULL] * 2  # fine-tuning


@pytest.mark.parametrize(
    ("options", "stops"),
    [
        (("--trainer.max_steps", 7), [3]),
        pytest.param(("--trainer.max_steps", 30), [*range(1, 30, 4)], marks=pytest.mark.slow),
        pytest.param(EPOCHS, [*range(1, 11)], marks=pytest.mark.slow),
        pytest.param(
            (
                *EPOCHS,
                "--trainer.accumulate_grad_batches",
                2,
                "--data.clips_per_video",
                2,
                "--data.batch_size",
                2,
            ),
            [*range(1, 5)],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_stopped_run_goes_on_with_the_same(fit, tmp_path, monkeypatch, options, stops):
    straight = fit("straight", *options)
    for step in stops:
        with monkeypatch.context() as patch:
            stop_in(step - 1, patch)
            before = fit(f"run{step}", *options)
        assert before and before[-1][1] == step - 1
        assert before + fit(f"run{step}", *options, "--ckpt_path", "last") == straight
        record, whole = record_of(tmp_path / f"run{step}"), record_of(tmp_path / "straight")
        for key in ("clips_seen", "frames_seen", "steps"):
            assert record[key] == whole[key]
        assert sorted(map(str, record["shapes"])) == sorted(map(str, whole["shapes"]))


@pytest.mark.parametrize("options", [("--trainer.max_steps", 3), EPOCHS])
def test_a_run_whose_steps_are_done_has_what_comes_after_them(fit, tmp_path, options):
    callback = {"class_path": "videonorm.training.ScoreAtLengths", "init_args": {"views": []}}
    scores = f"--trainer.callbacks+={json.dumps(callback)}"
    fit("run", *options, scores)
    (tmp_path / "run" / "scores.npz").unlink()
    assert not fit("run", *options, scores, "--ckpt_path", "last")
    assert (tmp_path / "run" / "scores.npz").exists()


def test_a_run_is_in_cycles_from_its_beginning_to_its_end(fit, overlay, recipe, tmp_path):
    fit("run", "--trainer.max_steps", 2)
    plain = overlay.with_name("plain.yaml")
    plain.write_text(MULTIGRID.partition("trainer:")[0])
    again = ["--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.max_steps", "2"]
    with pytest.raises(UserError, match=r"trainer.callbacks \(\[\]\) must be .*as in the run that goes on"):
        main(["fit", "-c", str(recipe), "-c", str(plain), *again, "--ckpt_path", "last"])


def test_a_run_that_goes_on_keeps_its_cycles(fit, overlay):
    fit("run", "--trainer.max_steps", 2)
    sentence = (
        r"total_steps \(9\) must be 2 in a run with Multigrid that goes on: its cycles are of the whole"
    )
    with pytest.raises(UserError, match=sentence):
        fit("run", "--trainer.max_steps", 9, "--ckpt_path", "last")
    overlay_of_another = overlay.with_name("other.yaml")
    overlay_of_another.write_text(MULTIGRID.replace("[0.7]", "[]"))
    with pytest.raises(UserError, match=r"trainer.callbacks \(.*\) must be .*as in the run that goes on"):
        fit("run", "--trainer.max_steps", 2, "--ckpt_path", "last", "-c", overlay_of_another)


def test_one_batch_of_an_epoch_is_not_all_of_them(fit, monkeypatch):
    parts = Multigrid._parts

    def limited(
        self, trainer
    ):  # an option of 1 is read as 1.0, too, by the order in which types were imported
        trainer.limit_train_batches = 1
        return parts(self, trainer)

    monkeypatch.setattr(Multigrid, "_parts", limited)
    with pytest.raises(UserError, match=r"trainer.limit_train_batches \(1\) must be 1.0 with Multigrid"):
        fit("run")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--data.batch_size", 3),
            r"batch_size \(3\) must be so small that the 12 clips of 2 x 11 px .* the 10",
        ),
        (("--model.scheduler", "null"), r"model.scheduler \(null\) must be a schedule of videonorm.training"),
        (
            ("--trainer.limit_train_batches", 2),
            r"trainer.limit_train_batches \(2\) must be 1.0 with Multigrid",
        ),
    ],
)
def test_what_does_not_fit_leaves_nothing_behind(fit, tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        fit("run", *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"long_cycle": []}, r"long_cycle \(\[\]\) or short_cycle \(\[\]\) must have at least one shape"),
        ({"long_cycle": [(0.5, 1.5)]}, r"long_cycle \(1.5\) must be above 0 and at most 1"),
        ({"short_cycle": [0]}, r"short_cycle \(0\) must be above 0"),
        ({"cycles": 0}, r"cycles \(0\) must be at least 1"),
        ({"fine_tune": 1.0}, r"fine_tune \(1\) must be at least 0 and below 1"),
        ({"lr_rule": "cubic"}, r"lr_rule \(cubic\) must be linear, sqrt or constant"),
    ],
)
def test_wrong_arguments(options, sentence):
    with pytest.raises(UserError, match=sentence):
        Multigrid(**options)
