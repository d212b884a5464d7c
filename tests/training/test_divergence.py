"""A training that has diverged ends as a failure, and no checkpoint holds what is left of it."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from videonorm.errors import UserError
from videonorm.training import VideoClassifier
from videonorm.training.cli import main
from videonorm.training.divergence import PATIENCE, FiniteLoss, check_finite_weights

INF = float("inf")


def fit(recipe, folder, *options):
    main(["fit", "-c", str(recipe), "--trainer.default_root_dir", str(folder), *map(str, options)])


def watched(losses, scaled=False):
    loss = FiniteLoss(scaled)
    for step, value in enumerate(losses):
        loss.watch(torch.tensor(value), step)
    return loss.diverged_at


def test_the_first_step_is_named():
    assert watched([1.0, 2.0]) is None
    assert watched([1.0, float("nan"), 2.0, INF]) == 1
    assert FiniteLoss(scaled=False).diverged_at is None


def test_steps_that_a_gradient_scaler_skips_are_no_divergence():
    assert watched([1.0, INF, INF, 2.0], scaled=True) is None
    assert watched([1.0, *[INF] * (PATIENCE - 1)], scaled=True) is None
    assert watched([1.0, *[INF] * PATIENCE], scaled=True) == 1


def test_weights():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[1].running_var.fill_(INF)  # no weight
    check_finite_weights(model, 3)
    model[1].weight.data[1] = INF
    with pytest.raises(UserError, match="weights must be finite, and 1.weight is not at step 3"):
        check_finite_weights(model, 3)


@pytest.fixture
def breaks(monkeypatch):
    """Make the loss of a step NaN: `breaks.at = step`."""
    training_step, breaks = VideoClassifier.training_step, SimpleNamespace(at=None)

    def broken(self, batch, batch_idx):
        with torch.no_grad():
            if self.trainer.global_step == breaks.at:
                self.backbone.head.bias.fill_(float("nan"))
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(VideoClassifier, "training_step", broken)
    return breaks


SEEN = [
    pytest.param(["--trainer.log_every_n_steps", 1], 4, id="where_it_is_logged"),
    pytest.param(["--trainer.log_every_n_steps", 50], 5, id="before_a_validation", marks=pytest.mark.slow),
    pytest.param(
        ["--trainer.log_every_n_steps", 50, "--trainer.limit_val_batches", 0], 6, id="before_a_checkpoint"
    ),
]


@pytest.mark.parametrize("options, sees", SEEN)
def test_a_run_that_diverges(recipe, tmp_path, breaks, options, sees):
    """Checkpoints are due at steps 3 and 6: the first one stands."""
    breaks.at = 3
    with pytest.raises(UserError, match="training loss must be finite, and is not since step 3"):
        fit(recipe, tmp_path, *options)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "failed" and "since step 3" in record["error"] and record["step"] == sees
    checkpoints = list((tmp_path / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["last.ckpt"]
    assert torch.load(checkpoints[0], weights_only=True)["global_step"] == 3


def test_weights_that_a_finite_loss_has_broken(recipe, tmp_path, monkeypatch):
    """As a gradient does that is not finite: the next loss would tell, after the checkpoint."""

    def broken(self, batch, batch_idx):
        with torch.no_grad():
            self.backbone.head.bias.fill_(INF)

    monkeypatch.setattr(VideoClassifier, "on_train_batch_start", broken)
    monkeypatch.setattr(FiniteLoss, "watch", lambda self, loss, step: None)
    with pytest.raises(UserError, match=r"weights must be finite, and backbone\..* is not at step 3"):
        fit(recipe, tmp_path)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_scores_that_are_not_finite_end_a_run(recipe, tmp_path, monkeypatch):
    def broken(self):
        self.backbone.head.bias.data.fill_(float("nan"))

    monkeypatch.setattr(VideoClassifier, "on_validation_start", broken)
    with pytest.raises(UserError, match=r"model at step 5 must give finite scores, .* 5 of 5 videos"):
        fit(recipe, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"
