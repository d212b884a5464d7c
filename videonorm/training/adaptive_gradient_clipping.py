"""Adaptive gradient clipping: a gradient is short beside the weights that it changes.

Source: Brock et al., "High-Performance Large-Scale Image Recognition Without Normalization",
arXiv:2102.06171, section 4, and its code (google-deepmind, nfnets).
"""

from collections.abc import Iterable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from videonorm.errors import UserError
from videonorm.training.callbacks import parts
from videonorm.training.classifier import VideoClassifier

SMALLEST_GRADIENT = 1e-6
SHARDING = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


class AdaptiveGradientClipping(Callback):
    """Clips gradients unit by unit before an optimizer step, all but those of the layer that classifies.

    The gradient g of the weights w of an output unit (a filter of a convolution, a row of a linear layer, or
    all of a bias or a gain) becomes

        g * limit / max(||g||, 1e-6)   where   ||g|| >= limit = clip_factor * max(||w||, eps)

    ``trainer.gradient_clip_val``, if it is set, clips what this leaves.

    Args:
        clip_factor: the source's lambda: .01 at batches of 4096, larger for smaller ones.
        eps: so that weights that are 0 can move.
    """

    def __init__(self, clip_factor: float = 0.01, eps: float = 1e-3) -> None:
        for name, value in (("clip_factor", clip_factor), ("eps", eps)):
            if not value > 0:
                raise UserError(f"{name} ({value:g}) must be above 0")
        self.clip_factor = clip_factor
        self.eps = eps
        self._clipped: list[nn.Parameter] = []

    def check(self, trainer: Trainer) -> None:
        """See ``videonorm.training.unfit_callbacks.CheckedCallback``."""
        name = "trainer.callbacks (AdaptiveGradientClipping)"
        if isinstance(trainer.strategy, SHARDING):
            strategy = type(trainer.strategy).__name__
            raise UserError(f"{name} must be left out with {strategy}: filters are in parts there")
        classifier, _ = parts(trainer)
        others = trainer.callbacks  # type: ignore[attr-defined]
        if sum(isinstance(other, AdaptiveGradientClipping) for other in others) > 1:
            raise UserError(f"{name} must be there once")
        if not _clipped(classifier):
            raise UserError(f"{name} must be left out where only the layer that classifies is trained")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not in check, which of several processes only the first calls.
        self._clipped = _clipped(parts(trainer)[0])

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        clip_by_unit(self._clipped, self.clip_factor, self.eps)


def _clipped(classifier: VideoClassifier) -> list[nn.Parameter]:
    spared = set(classifier.head.parameters())
    return [of for of in classifier.backbone.parameters() if of.requires_grad and of not in spared]


@torch.no_grad()
def clip_by_unit(parameters: Iterable[nn.Parameter], clip_factor: float, eps: float) -> None:
    """Clip the gradients of parameters (C_out, ...), in place: see AdaptiveGradientClipping."""
    for parameter in parameters:
        grad = parameter.grad
        if grad is None:
            continue
        limit = _unit_norms(parameter).clamp(min=eps) * clip_factor
        norms = _unit_norms(grad)
        factor = limit / norms.clamp(min=SMALLEST_GRADIENT)
        grad.mul_(torch.where(norms < limit, torch.ones_like(factor), factor).to(grad.dtype))


def _unit_norms(tensor: Tensor) -> Tensor:
    """(C_out, 1, ...), in fp32 at least; of a vector or a number one for all of it."""
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    sites = tuple(range(1, tensor.dim())) if tensor.dim() > 1 else None
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=sites, keepdim=sites is not None, dtype=dtype)
    return norms
