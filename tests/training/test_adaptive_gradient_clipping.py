"""Gradients are clipped unit by unit as timm clips them, and the classifying layer's are not."""

import copy
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from videonorm.errors import UserError
from videonorm.models import NFResNet3d
from videonorm.training import AdaptiveGradientClipping, VideoClassifier
from videonorm.training.adaptive_gradient_clipping import clip_by_unit


def with_gradients():
    """Of units in turn smaller and larger; of one unit all weights are 0, of another all gradients."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(3, 6, 2), nn.Linear(5, 4)).double()
    network.register_parameter("gain", nn.Parameter(torch.tensor(0.0, dtype=torch.float64)))
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
        if parameter.dim() > 1:
            for unit, grad in enumerate(parameter.grad):
                grad *= 10.0 ** (unit - 6)
    with torch.no_grad():
        network[0].weight[0] = 0
        network[0].weight.grad[1] = 0
    return network


def test_clips_as_timm_does():
    agc = pytest.importorskip("timm.utils.agc")
    network = with_gradients()
    theirs, before = copy.deepcopy(network), network[0].weight.grad.clone()
    for ours, other in zip(network.parameters(), theirs.parameters(), strict=True):
        other.grad = ours.grad.clone()
    agc.adaptive_clip_grad(theirs.parameters(), clip_factor=0.01, eps=1e-3)
    clip_by_unit(network.parameters(), 0.01, 1e-3)
    for ours, other in zip(network.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, other.grad, rtol=1e-12, atol=0)
    kept = (network[0].weight.grad == before).flatten(1).all(1)
    assert 1 < kept.sum() < len(kept)  # units apart


def test_by_hand():
    weight = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0], [3.0, 4.0]]))
    weight.grad = torch.tensor([[0.6, 0.8], [0.0, 0.2], [0.03, 0.04]])
    clip_by_unit([weight], clip_factor=0.1, eps=1.0)
    torch.testing.assert_close(weight.grad, torch.tensor([[0.3, 0.4], [0.0, 0.1], [0.03, 0.04]]))


class Seen(Callback):
    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        parameters = pl_module.backbone.named_parameters()
        found = {name: parameter.grad.clone() for name, parameter in parameters if parameter.grad is not None}
        self.grads = found or getattr(self, "grads", {})


def fit(folder, *callbacks, **options):
    torch.manual_seed(0)
    network = NFResNet3d(10, "mc3", num_classes=3, width=4, zero_init_residual=False)
    module = VideoClassifier(network, lambda groups: torch.optim.SGD(groups, lr=0.0), **options)
    clips, labels = torch.randn(4, 3, 2, 16, 16), torch.tensor([0, 1, 2, 0])
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=2,
        accumulate_grad_batches=2,
        callbacks=list(callbacks),
        **dict.fromkeys(quiet, False),
    )
    trainer.fit(module, DataLoader(TensorDataset(clips, labels), batch_size=1))
    return network


@pytest.mark.parametrize("is_first", [True, False])
def test_in_a_training_all_are_clipped_but_the_layer_that_classifies(tmp_path, monkeypatch, is_first):
    """By each of several processes, of which only the first prepares data."""
    if not is_first:
        monkeypatch.setattr(VideoClassifier, "prepare_data", lambda self: None)
    seen = Seen()
    network = fit(tmp_path, AdaptiveGradientClipping(clip_factor=1e-4), seen)
    grads = seen.grads
    assert grads.keys() == dict(network.named_parameters()).keys()
    for name, parameter in network.named_parameters():
        rows = parameter.dim() > 1
        lengths, of_weights = (
            (tensor.detach().flatten(1).norm(dim=1) if rows else tensor.detach().norm())
            for tensor in (grads[name], parameter)
        )
        within = (lengths <= 1.0001e-4 * of_weights.clamp(min=1e-3)).all()
        assert within != name.startswith("head"), name


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: AdaptiveGradientClipping(0.0), r"clip_factor \(0\) must be above 0"),
        (lambda: AdaptiveGradientClipping(eps=-1.0), r"eps \(-1\) must be above 0"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_what_it_does_not_fit_is_refused_before_training(tmp_path):
    with pytest.raises(UserError, match=r"AdaptiveGradientClipping\) must be there once"):
        fit(tmp_path, AdaptiveGradientClipping(), AdaptiveGradientClipping())
    frozen = ["stem", "stages"]
    with pytest.raises(UserError, match=r"must be left out where only the layer that classifies is trained"):
        fit(tmp_path, AdaptiveGradientClipping(), freeze=frozen)
    sharding = SimpleNamespace(strategy=object.__new__(FSDPStrategy))
    with pytest.raises(UserError, match=r"AdaptiveGradientClipping\) must be left out with FSDPStrategy"):
        AdaptiveGradientClipping().check(sharding)
    assert not list(tmp_path.iterdir())
