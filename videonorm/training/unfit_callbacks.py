"""Callbacks that do not fit: of Lightning's each with the reason; some of ours say it themselves."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, Trainer
from lightning.pytorch import callbacks as of_lightning
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from videonorm.errors import UserError

EMA: Any = getattr(of_lightning, "EMAWeightAveraging", ())  # since Lightning 2.6
UNFIT: dict[type[Callback], str] = {
    BackboneFinetuning: "VideoClassifier.backbone is the whole network, with the layer that classifies",
    BatchSizeFinder: "data.batch_size settles the learning rate, and is recorded, before it is called",
    GradientAccumulationScheduler: "schedule and learning rate are of one trainer.accumulate_grad_batches",
    LearningRateFinder: "the schedule, and a run that goes on, have the learning rate asked for",
}


@runtime_checkable
class CheckedCallback(Protocol):
    """A callback that says of a training what it does not fit before anything is written."""

    def check(self, trainer: Trainer) -> None:
        """Raise UserError for it; the data module has its manifests by then."""


def check_callbacks(callbacks: Iterable[Callback]) -> None:
    """Raise UserError for a callback that would leave records untrue, or fail."""
    for callback in callbacks:
        for kind, reason in UNFIT.items():
            if isinstance(callback, kind):
                raise UserError(f"trainer.callbacks ({type(callback).__name__}) must be left out: {reason}")


def check_every_callback(trainer: Trainer) -> None:
    """The same, and what callbacks say themselves."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    check_callbacks(callbacks)
    for callback in callbacks:
        if isinstance(callback, CheckedCallback):
            callback.check(trainer)


def check_resumed(callbacks: Iterable[Callback], network: nn.Module) -> None:
    """Raise UserError for a callback that a run cannot go on with."""
    for callback in callbacks:
        averages = isinstance(callback, StochasticWeightAveraging)
        if averages and any(isinstance(module, _BatchNorm) for module in network.modules()):
            raise UserError(
                f"trainer.callbacks ({type(callback).__name__}) must be left out of a run that goes on: it "
                "ends with an epoch for the statistics of batch norms, which is no epoch of training"
            )


def check_averages(callbacks: Iterable[Callback], total_steps: int) -> None:
    """Raise UserError for an average of weights that never begins.

    `fit` would end with what it holds: the weights that training began with.
    """
    for callback in callbacks:
        if isinstance(callback, EMA) and callback.update_starting_at_epoch is None:
            first = callback.update_starting_at_step
            if first is not None and first >= total_steps:
                raise UserError(
                    f"trainer.callbacks ({type(callback).__name__}) update_starting_at_step ({first}) must "
                    f"be below the steps of the training ({total_steps}), or all that is learnt is lost"
                )
