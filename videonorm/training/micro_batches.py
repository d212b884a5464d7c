"""The micro-batches of an optimizer step, whose batch norms may share their statistics."""

import warnings
from collections.abc import Callable

from lightning.pytorch import Trainer
from torch import Tensor, nn

from videonorm.errors import UserError
from videonorm.evaluation.scores import Network
from videonorm.layers import accumulated_batch_norms, accumulated_loss

Loss = Callable[[Tensor], Tensor]
"""Of logits."""


class MicroBatches:
    """Makes the loss of each micro-batch, or with AccumulatedBatchNorm3d of all those of a step at once.

    Args:
        network: clips (B, 3, T, H, W) to logits.
        run: the same, as a step runs it.
    """

    def __init__(self, network: nn.Module, run: Network) -> None:
        self._network = network
        self._run = run
        self._waiting: list[tuple[Tensor, Loss]] = []

    def loss(self, clips: Tensor, loss: Loss, trainer: Trainer) -> tuple[Tensor, int] | None:
        """A loss, and of how many micro-batches it is the sum; None where these wait for others."""
        if not shares_statistics(self._network, trainer):
            return loss(self._run(clips)), 1
        self._waiting.append((clips, loss))
        if trainer.fit_loop._should_accumulate():
            return None
        every_clips, losses = zip(*self._waiting, strict=True)
        self._waiting = []
        return accumulated_loss(self._network, every_clips, losses), len(losses)

    def clear(self) -> None:
        """Forget a step that was not made."""
        self._waiting = []


def shares_statistics(network: nn.Module, trainer: Trainer) -> bool:
    return trainer.accumulate_grad_batches > 1 and bool(accumulated_batch_norms(network))


def check_micro_batches(network: nn.Module, trainer: Trainer) -> None:
    """Raise UserError for a training that cannot share the statistics of its accumulated batches."""
    try:
        shares = shares_statistics(network, trainer)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not shares:
        return
    warnings.filterwarnings("ignore", ".*`training_step` returned `None`")  # of batches that wait for others
    if trainer.world_size > 1:
        raise UserError(
            f"trainer.devices ({trainer.world_size}) must be 1 for AccumulatedBatchNorm3d, whose statistics "
            "are of the batches of one device (SyncBatchNorm3d has those of all devices)"
        )
    if trainer.precision == "16-mixed":
        raise UserError(
            f"trainer.precision ({trainer.precision}) must be another, such as bf16-mixed, for "
            "AccumulatedBatchNorm3d, whose gradients are there before they could be scaled"
        )


def check_last_step(network: nn.Module, trainer: Trainer, batch_size: int | None) -> None:
    """Raise UserError if the last step of an epoch has too few clips to take statistics of.

    It is made of the batches that are left.
    """
    if batch_size is None or not shares_statistics(network, trainer):
        return
    steps, left = divmod(trainer.num_training_batches, trainer.accumulate_grad_batches)
    fewest = max(norm.min_clips for norm in accumulated_batch_norms(network))
    is_made = trainer.max_steps == -1 or trainer.max_steps > steps
    if left and is_made and left * batch_size < fewest:
        raise UserError(
            f"trainer.accumulate_grad_batches ({trainer.accumulate_grad_batches}) must leave the last step "
            f"of an epoch of {trainer.num_training_batches} batches at least {fewest} clips, not "
            f"{left * batch_size:g}, for AccumulatedBatchNorm3d"
        )
