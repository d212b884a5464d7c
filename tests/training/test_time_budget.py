"""Equal wall-clock: a training that ends on time, with its schedule complete."""

import csv
import json
import signal
import time
from types import SimpleNamespace

import pytest
from lightning.pytorch import Trainer

from videonorm.errors import UserError
from videonorm.training import LastCheckpoint, TimeBudget, VideoClassifier, WarmupCosine, throughput
from videonorm.training.cli import main
from videonorm.training.interruption import Stopped

TIMED = ["--trainer.max_steps", "-1", "--trainer.max_epochs", "-1"]


def budget(seconds):
    callback = {"class_path": "videonorm.training.TimeBudget", "init_args": {"seconds": seconds}}
    return [*TIMED, f"--trainer.callbacks+={json.dumps(callback)}"]


@pytest.fixture
def clock(monkeypatch):
    """A clock on which a batch takes a second in training, the first one three, and twenty in validation.

    It keeps the number of steps that was predicted when each of them began.
    """
    watched = SimpleNamespace(now=0.0, predicted=[])
    training_step, validation_step = VideoClassifier.training_step, VideoClassifier.validation_step

    def timed(self, batch, batch_idx):
        watched.predicted.append(self.total_steps)
        watched.now += 1.0 if watched.now else 3.0
        return training_step(self, batch, batch_idx)

    def timed_validation(self, *batch):
        watched.now += 20.0
        return validation_step(self, *batch)

    monkeypatch.setattr(VideoClassifier, "training_step", timed)
    monkeypatch.setattr(VideoClassifier, "validation_step", timed_validation)
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: watched.now))
    return watched


def run(recipe, folder, *options):
    """The record, and the learning rate of each step."""
    main(["fit", "-c", str(recipe), "--trainer.default_root_dir", str(folder), *map(str, options)])
    with open(folder / "metrics.csv", newline="") as file:
        rates = [float(row["train/lr"]) for row in csv.DictReader(file) if row["train/lr"]]
    return json.loads((folder / "run.json").read_text()), rates


def stop_at(monkeypatch, step):
    def ask(self, trainer, *_):
        if trainer.global_step == step:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(LastCheckpoint, "on_train_batch_start", ask)


def test_it_ends_with_the_first_step_after_it(recipe, tmp_path, clock, capsys):
    options = ["--trainer.val_check_interval", 4, "--trainer.check_val_every_n_epoch", "null"]
    options += ["--model.scheduler.init_args.warmup", 0.5]
    record, rates = run(recipe, tmp_path, *budget(12.5), *options)
    assert record["status"] == "done" and record["train_seconds"] == 13
    assert clock.now == 13 + 3 * 3 * 20  # it was validated after steps 4 and 8, too
    assert record["step"] == record["total_steps"] == 11 and record["val_videos"] == 5
    begun = [0.0, *(number + 3.0 for number in range(10))]
    factors = [WarmupCosine(warmup=0.5).factor(seconds / 12.5) for seconds in begun]
    assert rates == pytest.approx([record["lr"] * factor for factor in factors])
    assert record["schedule"] == "WarmupCosine(warmup=0.5, start=0.1, final=0.0)"
    assert record["warmup_steps"] == sum(seconds < 6.25 for seconds in begun) == 5
    # The first step says too little of the others, and the second puts it right.
    assert clock.predicted == [None, 5, *[11] * 9]
    assert "schedule is now" not in capsys.readouterr().out


def test_time_goes_on_in_a_run_that_goes_on(recipe, tmp_path, clock, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, 6)
        run(recipe, tmp_path, *budget(11.5))
    clock.now = 1000.0
    record, rates = run(recipe, tmp_path, *budget(11.5), "--ckpt_path", "last")
    assert (record["status"], record["step"], record["train_seconds"]) == ("done", 10, 12)
    assert clock.predicted[:10] == [None, 4, *[10] * 8]
    assert rates[-1] == pytest.approx(record["lr"] * WarmupCosine().factor(11 / 11.5))

    again, _ = run(recipe, tmp_path, *budget(11.5), "--ckpt_path", "last")  # has nothing left
    assert (again["status"], again["step"], again["total_steps"]) == ("done", 10, 10)
    capsys.readouterr()
    longer, _ = run(recipe, tmp_path, *budget(13.5), "--ckpt_path", "last")
    assert (longer["step"], longer["total_steps"], longer["train_seconds"]) == (12, 12, 14)
    assert "the schedule is now of 13.5 seconds, and was of 11.5\n" in capsys.readouterr().out


@pytest.mark.slow
def test_it_ends_with_a_whole_step(recipe, tmp_path, clock):
    """Of two batches, but for the last of an epoch of five."""
    torchs = '{"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 2}}'
    options = ["--trainer.accumulate_grad_batches", 2, "--model.scheduler", torchs]
    record, rates = run(recipe, tmp_path, *budget(7.5), *options)
    assert (record["step"], record["clips_seen"], record["train_seconds"]) == (4, 14, 9)
    assert [record[name] for name in ("schedule", "warmup_steps", "total_steps")] == ["StepLR", None, 4]
    assert rates[-1] == pytest.approx(record["lr"] / 10)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ([*budget(5), "--trainer.max_steps", "9"], r"trainer.max_steps \(9\) must be -1 beside TimeBudget"),
        (budget(0), r"seconds \(0\) must be above 0"),
        (TIMED, r"must be set for a schedule to follow, or trainer.callbacks have a TimeBudget"),
    ],
)
def test_what_it_refuses(recipe, tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        run(recipe, tmp_path / "run", *options)
    assert not (tmp_path / "run" / "run.json").exists()


def test_it_needs_the_clock_of_a_record(tmp_path):
    trainer = Trainer(max_steps=-1, max_epochs=-1, default_root_dir=tmp_path, accelerator="cpu", logger=False)
    with pytest.raises(UserError, match=r"\(TimeBudget\) must have a RunRecord beside it"):
        TimeBudget(1.0).check(trainer)


@pytest.mark.slow
def test_by_the_clock_on_the_wall(recipe, tmp_path):
    began = time.monotonic()
    record, _ = run(recipe, tmp_path, *budget(2.0))
    assert 2 <= record["train_seconds"] < time.monotonic() - began
    assert record["step"] == record["total_steps"] > 2
