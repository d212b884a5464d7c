from types import SimpleNamespace

import pytest
import torch
from torch import nn

from videonorm.data import Manifest
from videonorm.data.batches import TrainClips, Views
from videonorm.data.entries import Entries, Entry
from videonorm.errors import UserError
from videonorm.layers import norm_layers
from videonorm.training.classifier import VideoClassifier
from videonorm.training.network_parts import parameter_groups
from videonorm.training.schedule import WarmupCosine


class OurNorm(nn.Module):
    """Known as a norm by its role alone; one of its parameters is no vector, as in batch-channel norm."""

    is_norm = True

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 4, 1))
        self.bias = nn.Parameter(torch.zeros(4))


class Backbone(nn.Module):
    """Clips to logits of three classes, with norms of both origins in it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 1)
        self.norm = nn.BatchNorm3d(4)
        self.unused_norm = OurNorm()
        self.head = nn.Linear(4, 3)

    def forward(self, clips):
        return self.head(self.norm(self.conv(clips)).mean(dim=(2, 3, 4)))


def make_classifier(*, accumulate=1, world_size=1, batch_size=8, **options):
    optimizer = options.pop("optimizer", lambda groups: torch.optim.SGD(groups, lr=0.5, weight_decay=0.1))
    classifier = VideoClassifier(Backbone(), optimizer, **options)
    classifier.trainer = SimpleNamespace(
        datamodule=SimpleNamespace(batch_size=batch_size, num_frames=4),
        accumulate_grad_batches=accumulate,
        world_size=world_size,
        global_rank=0,
        global_step=0,
        callbacks=[],
        max_steps=100,
        max_epochs=-1,
        estimated_stepping_batches=100,
    )
    return classifier


def test_weight_decay_spares_norms_and_biases_whatever_their_class():
    model = Backbone()
    decayed, kept = parameter_groups(model, norm_weight_decay=False)
    assert {id(p) for p in decayed["params"]} == {id(model.conv.weight), id(model.head.weight)}
    assert kept["weight_decay"] == 0.0
    assert len(kept["params"]) == 6 and all(
        any(p is q for q in kept["params"]) for norm in norm_layers(model) for p in norm.parameters()
    )


def test_weight_decay_on_everything_is_an_option():
    model = Backbone()
    (group,) = parameter_groups(model, norm_weight_decay=True)
    assert len(group["params"]) == len(list(model.parameters())) and "weight_decay" not in group


def test_frozen_parameters_are_not_trained():
    model = Backbone()
    model.conv.requires_grad_(False)
    decayed, kept = parameter_groups(model, norm_weight_decay=False)
    assert len(decayed["params"]) == 1 and len(kept["params"]) == 5


def test_learning_rate_is_in_proportion_to_the_global_batch():
    classifier = make_classifier(batch_size=8, accumulate=3, world_size=2, lr_per_256_clips=0.64)
    optimizer = classifier.configure_optimizers()
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(0.64 * 48 / 256)] * 2
    assert classifier.base_lr == pytest.approx(0.12)


def test_fixed_learning_rate_stays():
    assert make_classifier(batch_size=2).configure_optimizers().param_groups[0]["lr"] == 0.5


def test_schedule_runs_over_the_whole_training():
    configured = make_classifier(scheduler=WarmupCosine(warmup=0.1)).configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.5 * WarmupCosine(warmup=0.1).factor(step / 100) for step in range(100)])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0)


def test_any_torch_scheduler_will_do():
    def scheduler(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=3)

    configured = make_classifier(scheduler=scheduler, scheduler_interval="epoch").configure_optimizers()
    assert configured["lr_scheduler"]["interval"] == "epoch"
    assert isinstance(configured["lr_scheduler"]["scheduler"], torch.optim.lr_scheduler.StepLR)


def test_a_schedule_needs_an_end():
    classifier = make_classifier(scheduler=WarmupCosine())
    classifier.trainer.max_steps = -1
    with pytest.raises(UserError, match=r"trainer.max_steps \(-1\) or trainer.max_epochs \(-1\) must be set"):
        classifier.configure_optimizers()


def test_label_smoothing_is_checked():
    with pytest.raises(UserError, match=r"label_smoothing \(1.5\) must be at least 0"):
        make_classifier(label_smoothing=1.5)


@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "mixed"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_training_loss(smoothing, mixed):
    """Labels are numbers, or class probabilities where clips were mixed."""
    classifier = make_classifier(label_smoothing=smoothing)
    classifier.log = lambda *args, **kwargs: None
    classifier.trainer.optimizers = [classifier.configure_optimizers()]
    clips, label = torch.randn(4, 3, 2, 3, 3), torch.tensor([0, 1, 2, 2])
    target = torch.eye(3)[label]
    if mixed:
        target = label = 0.7 * target + 0.3 * target.roll(1, 0)

    loss = classifier.training_step(TrainClips(clips, label), 0)

    target = target * (1 - smoothing) + smoothing / 3
    torch.testing.assert_close(loss, -(target * classifier.backbone(clips).log_softmax(1)).sum(1).mean())


def test_a_batch_of_bad_videos_scores_nothing():
    classifier = make_classifier()
    entries = Entries.of([Entry(f"{number}.mp4", 0) for number in range(4)])
    classifier.start_scores(
        SimpleNamespace(dataset=SimpleNamespace(manifest=Manifest("val.csv", entries, 3)))
    )
    empty = Views(torch.zeros(0, 0, 0, 0, 0, 3), torch.zeros(0).long(), torch.zeros(0).long())
    assert classifier.predict_step(empty, 0).shape == (0, 3)
    assert not classifier.scores.scored.any()


def test_backbone_must_end_in_a_linear_layer():
    with pytest.raises(UserError, match=r"backbone \(Identity\) must end in a linear layer"):
        _ = VideoClassifier(nn.Identity(), torch.optim.SGD).num_classes
