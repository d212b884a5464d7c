"""What a recorder looks at: the network of a training, and clips that stay the same."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn


@dataclass(frozen=True)
class Subject:
    """A network in training mode and its probe.

    Attributes:
        module: a ``VideoClassifier``.
        clips, labels: the first batch that the training was given, (B, 3, T, H, W) and (B,) or (B, K).
    """

    trainer: Trainer
    module: LightningModule
    clips: Tensor
    labels: Tensor

    @property
    def network(self) -> nn.Module:
        """Clips to logits (B, K)."""
        network = self.module.backbone
        assert isinstance(network, nn.Module)
        return network

    def loss(self, mixed_precision: bool = True) -> Tensor:
        """That of training on the probe: mean over the clips, each time with the same dropout.

        Args:
            mixed_precision: in the precision of training, but for fp16, whose gradients would have to be
                scaled. Otherwise in that of the weights.
        """
        torch.manual_seed(0)
        with self.precision() if mixed_precision else nullcontext():
            loss = self.module.loss(self.clips, self.labels)  # type: ignore[operator]
        assert isinstance(loss, Tensor)
        return loss

    def precision(self) -> AbstractContextManager[Any]:
        plugin = self.trainer.precision_plugin
        return nullcontext() if getattr(plugin, "scaler", None) else plugin.forward_context()


def wide(tensor: Tensor) -> Tensor:
    """In fp32 where it is less, for what is summed up."""
    return tensor if tensor.dtype is torch.float64 else tensor.float()


def norm_of(tensors: Sequence[Tensor]) -> float:
    """The Euclidean norm of all of their values."""
    norms = [torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64) for tensor in tensors]
    return float(torch.linalg.vector_norm(torch.stack(norms)))
