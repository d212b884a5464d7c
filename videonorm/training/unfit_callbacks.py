"""Callbacks of Lightning that do not fit the model, each with the reason."""

from collections.abc import Iterable

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
)

from videonorm.errors import UserError

UNFIT: dict[type[Callback], str] = {
    BackboneFinetuning: "VideoClassifier.backbone is the whole network, with the layer that classifies",
    BatchSizeFinder: "data.batch_size settles the learning rate, and is recorded, before it is called",
    GradientAccumulationScheduler: "schedule and learning rate are of one trainer.accumulate_grad_batches",
    LearningRateFinder: "the schedule, and a run that goes on, have the learning rate asked for",
}


def check_callbacks(callbacks: Iterable[Callback]) -> None:
    """Raise UserError for a callback that would leave records untrue, or fail."""
    for callback in callbacks:
        for kind, reason in UNFIT.items():
            if isinstance(callback, kind):
                raise UserError(f"trainer.callbacks ({type(callback).__name__}) must be left out: {reason}")
