"""A run that goes on: with the clips and learning rates of the unbroken one, or not at all."""

import csv
import re
import signal

import pytest

from videonorm.training import LastCheckpoint, VideoClassifier
from videonorm.training.cli import main
from videonorm.training.interruption import Stopped


def run(recipe, folder, *options):
    main(["fit", "-c", str(recipe), "--trainer.default_root_dir", str(folder), *map(str, options)])


def rows_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["train/loss"]]


def watch(monkeypatch):
    """What every training step sees from here on: epoch, clips, labels, learning rate."""
    training_step, steps = VideoClassifier.training_step, []

    def recorded(self, batch, batch_idx):
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        steps.append((self.current_epoch, batch.clips.double().sum().item(), batch.label.tolist(), rate))
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(VideoClassifier, "training_step", recorded)
    return steps


@pytest.fixture
def seen(monkeypatch):
    return watch(monkeypatch)


@pytest.fixture(scope="module")
def straight(recipe, tmp_path_factory):
    """The folder of a run of twelve steps, two epochs of five and two more, and what its steps saw."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        steps = watch(patch)
        run(recipe, folder, "--trainer.max_steps", 12)
    return folder, steps


def assert_same_course(folder, straight, but=None):
    """Every step of metrics.csv once, in the epoch of the unbroken run; all rows ``but`` one."""
    course = [(int(row["step"]), row["epoch"]) for row in rows_of(folder)]
    of_straight = [(int(row["step"]), row["epoch"]) for row in rows_of(straight)]
    assert course == [row for row in of_straight if row[0] != but]


# In the middle of the first and the second epoch, and at the end of one.
@pytest.mark.parametrize("steps", [7, 5, pytest.param(3, marks=pytest.mark.slow)])
def test_a_finished_run_is_extended_as_if_it_had_been_longer(recipe, tmp_path, straight, seen, capsys, steps):
    run(recipe, tmp_path, "--trainer.max_steps", steps)
    del seen[:]
    run(recipe, tmp_path, "--trainer.max_steps", 12, "--ckpt_path", "last")
    assert seen == straight[1][steps:]  # its learning rates, too
    said = capsys.readouterr().out
    assert f"going on at step {steps} from {tmp_path / 'checkpoints' / 'last.ckpt'}\n" in said
    assert f"the schedule is now of 12 steps, and was of {steps} until step {steps}\n" in said
    assert re.search(rf"{tmp_path}: 12 steps, best val/top1 [01]\.\d+ at step \d+\n$", said)
    assert_same_course(tmp_path, straight[0])


@pytest.mark.parametrize("steps", [5, pytest.param(3, marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_where_it_was(recipe, tmp_path, straight, seen, monkeypatch, steps):
    def ask(self, trainer, *_):
        if trainer.global_step == steps - 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_start", ask)
        with pytest.raises(Stopped):
            run(recipe, tmp_path, "--trainer.max_steps", 12)
    run(recipe, tmp_path, "--trainer.max_steps", 12, "--ckpt_path", "last")
    assert seen == straight[1]
    assert_same_course(tmp_path, straight[0], but=steps - 1)  # a run that is stopped saves at once


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_of_epochs_is_extended(recipe, tmp_path, seen, epochs):
    """Its schedule is of another length, and says so: the clips are the same."""
    of_epochs = ["--trainer.max_steps", -1, "--trainer.max_epochs"]
    run(recipe, tmp_path / "straight", *of_epochs, 3)
    straight = [step[:3] for step in seen]
    del seen[:]
    run(recipe, tmp_path / "run", *of_epochs, epochs)
    run(recipe, tmp_path / "run", *of_epochs, 3, "--ckpt_path", "last")
    assert [step[:3] for step in seen] == straight
    assert_same_course(tmp_path / "run", tmp_path / "straight")
