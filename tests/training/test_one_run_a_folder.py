"""A run folder: one run at a time, its own records whatever is asked for, its results beside it."""

import csv
import errno
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from torch import nn
from two_layers import TwoLayers, train

import videonorm.__main__
from videonorm.errors import UserError
from videonorm.files import hold
from videonorm.layers import BatchNorm3d
from videonorm.training import LastCheckpoint, run_folder
from videonorm.training.cli import main
from videonorm.training.run_folder import folder_of
from videonorm.training.unfit_callbacks import check_callbacks, check_resumed


def run(command, recipe, *options):
    main([command, "-c", str(recipe), *map(str, options)])


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    """A run with a logger of a person's own, that says neither how often to log nor what to print."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    text = recipe.read_text().replace("  log_every_n_steps: 1\n", "")
    plain = folder.parent / "recipe.yaml"
    plain.write_text(text.replace("  enable_model_summary: false\n", ""))
    options = ["--trainer.logger", "lightning.pytorch.loggers.CSVLogger"]
    options += ["--trainer.logger.save_dir", folder / "own", "--trainer.default_root_dir", folder]
    run("fit", plain, *options)
    return folder


def test_metrics_are_kept_beside_another_logger(trained):
    """In as few as eight steps, of an epoch of five."""
    for path in (trained / "metrics.csv", *(trained / "own").rglob("metrics.csv")):
        with open(path, newline="") as file:
            assert len([row for row in csv.DictReader(file) if row["train/loss"]]) == 8, path
    assert list((trained / "own").rglob("metrics.csv")) and not (trained / "tensorboard").exists()


def test_results_lie_beside_the_checkpoint_that_was_judged(recipe, trained, monkeypatch, tmp_path):
    """Whatever folder the recipe and the batch size would name."""
    monkeypatch.chdir(tmp_path)
    (trained / "bad_videos.csv").write_text("path,reason,split\na.mp4,is bad,train\nb.mp4,was bad,test\n")
    best = trained / "checkpoints" / "best.ckpt"
    run("test", recipe, "--data.batch_size", 4, "--ckpt_path", best)
    assert json.loads((trained / "test.json").read_text())["checkpoint"] == str(best)
    with open(trained / "bad_videos.csv", newline="") as file:
        assert [(row["path"].split("/")[-1], row["split"]) for row in csv.DictReader(file)] == [
            ("a.mp4", "train"),
            ("bad.mp4", "test"),
        ]
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_checkpoint(tmp_path, monkeypatch):
    assert folder_of("runs/a/checkpoints/last.ckpt").parts[-2:] == ("runs", "a")
    assert folder_of(tmp_path / "alone.ckpt") == tmp_path
    monkeypatch.chdir(tmp_path)
    assert folder_of("last.ckpt") == tmp_path


def test_two_runs_in_one_folder(recipe, tmp_path):
    lock = hold(tmp_path / ".lock")
    with pytest.raises(UserError, match=rf"\({tmp_path}\) is in use by process \d+, which trains there"):
        run("fit", recipe, "--trainer.default_root_dir", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    lock.close()
    hold(tmp_path / ".lock").close()


GLOBAL_ZERO = SimpleNamespace(is_global_zero=True)


def test_a_run_that_ended_while_another_waited(tmp_path):
    """The first look is before the lock."""
    lock = run_folder.FolderLock(tmp_path, resumes=False)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(UserError, match="must be a folder without a run"):
        lock.take(GLOBAL_ZERO)


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(path):
        raise OSError(errno.ENOLCK, "No locks available", path)

    monkeypatch.setattr(run_folder, "hold", refuse)
    lock = run_folder.FolderLock(tmp_path, resumes=False)
    with pytest.warns(UserWarning, match="has no locks: nothing keeps two runs apart there"):
        lock.take(GLOBAL_ZERO)


def test_a_place_that_cannot_be_written(recipe, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"default_root_dir \(.*file/run\) must be .*: Not a directory$"):
        run("fit", recipe, "--trainer.default_root_dir", tmp_path / "file" / "run")


def test_a_full_disk_ends_a_run_in_one_sentence(recipe, tmp_path, monkeypatch, capsys):
    """At the second checkpoint, in torch's own writer; the first one stands, and so does its record."""
    save, due = torch.save, []

    class Full:
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

        flush = close = lambda self: None

    def fails(checkpoint, file):
        due.append(checkpoint["global_step"])
        save(checkpoint, Full() if len(due) == 2 else file)

    monkeypatch.setattr(torch, "save", fails)
    folder = tmp_path / "run"
    options = ["--trainer.default_root_dir", folder, "--trainer.limit_val_batches", 0]
    monkeypatch.setattr(sys, "argv", ["videonorm", "fit", "-c", str(recipe), *map(str, options)])
    with pytest.raises(SystemExit) as ended:
        videonorm.__main__.main()
    last = folder / "checkpoints" / "last.ckpt"
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"videonorm: {last}: No space left on device\n")
    assert due == [3, 6] and torch.load(last, weights_only=True)["global_step"] == 3
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "failed" and "No space left" in record["error"]
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]


UNFIT = [LearningRateFinder(), BatchSizeFinder(), GradientAccumulationScheduler({0: 2}), BackboneFinetuning()]


@pytest.mark.parametrize("callback", UNFIT, ids=lambda callback: type(callback).__name__)
def test_callbacks_that_do_not_fit(callback):
    with pytest.raises(UserError, match=rf"callbacks \({type(callback).__name__}\) must be left out: \w+"):
        check_callbacks([Callback(), callback])


def test_averaged_weights_with_batch_norms_are_the_end(tmp_path):
    """Their statistics are taken in an epoch more, of which a run that goes on would count the steps."""
    check_resumed([StochasticWeightAveraging(swa_lrs=0.01)], nn.GroupNorm(1, 3))
    train(tmp_path, [LastCheckpoint()], network=TwoLayers(BatchNorm3d), enable_checkpointing=True)
    again = {"ckpt_path": tmp_path / "checkpoints" / "last.ckpt", "enable_checkpointing": True}
    network = TwoLayers(BatchNorm3d)
    with pytest.raises(UserError, match=r"\(StochasticWeightAveraging\) must be left out of a run that goes"):
        train(tmp_path, [LastCheckpoint(), StochasticWeightAveraging(swa_lrs=0.01)], network=network, **again)


def without_batch_norm(recipe, folder):
    with_batch_norm = "norm: {class_path: videonorm.layers.BatchNorm3d, init_args: {momentum: 0.2}}"
    text = recipe.read_text()
    assert with_batch_norm in text
    other = folder / "recipe.yaml"
    other.write_text(text.replace(with_batch_norm, "norm: videonorm.layers.LayerNorm3d"))
    return other


def test_a_callback_that_does_not_fit_leaves_nothing(recipe, tmp_path):
    option = "--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateFinder"
    with pytest.raises(UserError, match=r"trainer.callbacks \(LearningRateFinder\) must be left out"):
        run("fit", recipe, "--trainer.default_root_dir", tmp_path / "run", option)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, options",
    [
        ("LearningRateMonitor", {}),
        ("EarlyStopping", {"monitor": "val/loss", "patience": 5}),
        ("StochasticWeightAveraging", {"swa_lrs": 0.01, "swa_epoch_start": 1}),
        ("EMAWeightAveraging", {}),
        ("Timer", {"duration": "00:01:00:00"}),
    ],
)
def test_callbacks_that_fit(recipe, tmp_path, name, options):
    """A run goes on with them, and what it saves can be judged."""
    given = [f"--trainer.callbacks+=lightning.pytorch.callbacks.{name}"]
    given += [word for key, value in options.items() for word in (f"--trainer.callbacks.{key}", value)]
    if name == "StochasticWeightAveraging":
        recipe = without_batch_norm(recipe, tmp_path)
    given += ["--trainer.default_root_dir", tmp_path, "--trainer.max_steps", -1, "--trainer.max_epochs"]
    run("fit", recipe, *given, 3)
    run("fit", recipe, *given, 4, "--ckpt_path", "last")
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["status"], record["step"]) == ("done", 20)
    run("validate", recipe, "--ckpt_path", tmp_path / "checkpoints" / "last.ckpt")
    judged = json.loads((tmp_path / "validate.json").read_text())
    assert {f"val_{of}": judged[of] for of in ("top1", "loss")} == {
        of: record[of] for of in ("val_top1", "val_loss")
    }
