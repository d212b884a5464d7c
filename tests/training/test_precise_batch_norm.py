"""Statistics of many batches are what a run validates and saves, and training does not notice them."""

import csv
import json
import signal

import pytest
import torch

from videonorm.errors import UserError
from videonorm.evaluation.checkpoint import load_checkpoint
from videonorm.layers import precise_statistics
from videonorm.training import LastCheckpoint, PreciseBatchNorm
from videonorm.training.cli import main
from videonorm.training.interruption import Stopped

# Ten videos, 2 a batch: the estimate takes more than one pass.
CALLBACK = json.dumps({"class_path": "videonorm.training.PreciseBatchNorm", "init_args": {"batches": 6}})
STEPS = ("--trainer.max_steps", 6)


def run(command, recipe, folder, *options):
    main([command, "-c", str(recipe), "--trainer.default_root_dir", str(folder), *map(str, options)])


def precise(recipe, folder, *options, command="fit"):
    run(command, recipe, folder, *options, f"--trainer.callbacks+={CALLBACK}")


def rows(folder, column):
    with open(folder / "metrics.csv", newline="") as file:
        return [row[column] for row in csv.DictReader(file) if row[column]]


@pytest.fixture(scope="module")
def plain(recipe, tmp_path_factory):
    """A run without."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    run("fit", recipe, folder, *STEPS)
    return folder


def precise_and_its_clips(recipe, folder, *options):
    """Train; the clips of the last estimate."""
    clips, of_callback = [], PreciseBatchNorm._clips

    def recorded(self, trainer, data):
        clips.clear()
        for batch in of_callback(self, trainer, data):
            clips.append(batch)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreciseBatchNorm, "_clips", recorded)
        precise(recipe, folder, *STEPS, *options)
    return clips


@pytest.fixture(scope="module")
def estimated(recipe, tmp_path_factory):
    """A run with, and its clips."""
    folder = tmp_path_factory.mktemp("precise") / "run"
    return folder, precise_and_its_clips(recipe, folder)


def of_clips(checkpoint, clips):
    """A checkpoint's network, with the statistics of clips."""
    network = load_checkpoint(checkpoint).network
    with precise_statistics(network), torch.no_grad():
        for batch in clips:
            network(batch)
    return network.state_dict()


def statistics(path):
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if "running" in name or "num_batches" in name}


def test_what_is_saved_has_the_statistics_of_the_batches_under_its_own_weights(estimated):
    folder, clips = estimated
    assert len(clips) == 6 and all(batch.shape == (2, 3, 4, 16, 16) for batch in clips)
    assert not torch.equal(clips[0], clips[5])  # another pass
    last = folder / "checkpoints" / "last.ckpt"
    found = statistics(last)
    for name, value in of_clips(last, clips).items():
        if "running" in name:
            torch.testing.assert_close(found[f"backbone.{name}"], value)
        elif "num_batches" in name:
            assert value == 6  # steps
    assert json.loads((folder / "run.json").read_text())["clips_seen"] == 12


@pytest.mark.slow
def test_training_goes_on_as_without(estimated, plain):
    assert rows(estimated[0], "train/loss") == rows(plain, "train/loss")
    assert rows(estimated[0], "val/loss") != rows(plain, "val/loss")
    name = "backbone.stem.norm.running_var"
    of_each = [statistics(of / "checkpoints" / "last.ckpt")[name] for of in (estimated[0], plain)]
    assert not torch.equal(*of_each)


@pytest.mark.slow
def test_validate_judges_a_checkpoint_by_them(recipe, estimated, plain, tmp_path, capsys):
    last = plain / "checkpoints" / "last.ckpt"
    precise(recipe, tmp_path, "--ckpt_path", last, command="validate")
    assert "statistics of 12 batch norms: of 6 batches of 2 clips\n" in capsys.readouterr().out
    found = json.loads((tmp_path / "validate.json").read_text())["loss"]
    # The weights are those of the other run, and the clips those of its step.
    assert found != float(rows(plain, "val/loss")[-1])


@pytest.mark.slow
def test_a_run_that_goes_on_has_those_of_the_unbroken_one(recipe, estimated, tmp_path, monkeypatch):
    def ask(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_start", ask)
        with pytest.raises(Stopped):
            precise(recipe, tmp_path, *STEPS)
    precise(recipe, tmp_path, *STEPS, "--ckpt_path", "last")
    found, whole = (statistics(of / "checkpoints" / "last.ckpt") for of in (tmp_path, estimated[0]))
    assert found.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value, msg=name)


@pytest.mark.slow
def test_averaged_weights_have_statistics_of_their_own(recipe, tmp_path):
    averaging = json.dumps(
        {
            "class_path": "lightning.pytorch.callbacks.EMAWeightAveraging",
            "init_args": {"decay": 0.5, "use_buffers": True},
        }
    )
    clips = precise_and_its_clips(recipe, tmp_path / "1", f"--trainer.callbacks+={averaging}")
    last = tmp_path / "1" / "checkpoints" / "last.ckpt"
    found = statistics(last)
    for name, value in of_clips(last, clips).items():
        if "running" in name:
            torch.testing.assert_close(found[f"backbone.{name}"], value)
    assert statistics(last.with_name("best.ckpt")).keys() == found.keys()
    with pytest.raises(UserError, match=r"must come behind WeightAveraging"):
        run("fit", recipe, tmp_path / "2", f"--trainer.callbacks+=[{CALLBACK},{averaging}]")


def test_mistakes(recipe, tmp_path):
    with pytest.raises(UserError, match=r"batches \(0\) must be at least 1"):
        PreciseBatchNorm(0)
    frozen = ("--model.backbone.init_args.norm", "videonorm.layers.FrozenBatchNorm3d")
    with pytest.raises(
        UserError, match=r"\(PreciseBatchNorm\) must have batch norms in model.backbone, and not"
    ):
        precise(recipe, tmp_path / "run", *frozen)
    assert not (tmp_path / "run").exists()
