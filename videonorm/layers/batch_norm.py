"""Batch normalization."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videonorm.layers.norm import Activation, AffineNorm


class BatchNorm3d(AffineNorm, nn.BatchNorm3d):
    """Batch normalization (Ioffe & Szegedy, arXiv:1502.03167), computed by torch, with its state_dict keys.

        y = weight[c] * (x - mean[c]) / sqrt(var[c] + eps) + bias[c]

    In training, mean and the biased var are taken over all clips and all of T, H, W, in fp32 whatever the
    dtype of x, and enter the running ones (var unbiased); in evaluation the running ones are used.

    Tools that look for torch's batch norms find it: ``torch.optim.swa_utils.update_bn``, fvcore's precise
    batch norm, Lightning's BaseFinetuning, ``torch.func``. As in torch, ``track_running_stats = False``
    leaves the running statistics as they are, and without any (``running_mean = None``) evaluation takes
    those of the batch. Tools that would put another layer in its place, one without residual and activation,
    read ``num_features`` and are refused there: ``nn.SyncBatchNorm.convert_sync_batchnorm``, and with it
    Lightning's ``sync_batchnorm=True``.

    Args:
        num_channels: C.
        eps: added to the variance.
        momentum: the share of the newest batch in the running statistics; None for the mean over all batches.
        min_clips: the fewest clips to take statistics of in training. Of no clips none are taken.
        activation: "relu" or None.

    Raises:
        ValueError: in training with fewer than `min_clips` clips.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_channels: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        min_clips: int = 2,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(num_channels, activation=activation)
        self.eps = eps
        self.momentum = momentum
        self.min_clips = min_clips
        self.affine = True
        self.track_running_stats = True
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    @property
    def num_features(self) -> int:  # type: ignore[override]  # torch's is an attribute
        raise TypeError(
            f"num_features ({self.num_channels}) of {type(self).__name__} must not be read to put another"
            " layer in its place, which would have no residual and no activation (num_channels is the same"
            " number; videonorm.layers.convert_sync_batch_norm makes a synchronized layer)"
        )

    def affine_map(self) -> tuple[Tensor, Tensor]:
        """What a normalized channel is multiplied by, and what is added to it: (C,), (C,)."""
        return self.weight, self.bias

    def statistics_batch(self, batch_size: int) -> int:
        """How many clips share statistics in training, where every process has `batch_size` clips."""
        return batch_size

    def normalize(self, x: Tensor) -> Tensor:
        if not self.training and self.running_mean is not None:
            return batch_norm(x, self.running_mean, self.running_var, *self.affine_map(), self.eps)
        clips = self.statistics_batch(x.shape[0])
        if self.training and 0 < clips < self.min_clips:
            raise ValueError(
                f"{self._statistics_batch_name} ({clips}) must be at least {self.min_clips} for"
                f" {type(self).__name__} in training (statistics of one clip are those of InstanceNorm);"
                f" set min_clips: {clips} to train it all the same"
            )
        return self._normalize_by_batch(x)

    _statistics_batch_name = "batch_size"

    def _normalize_by_batch(self, x: Tensor) -> Tensor:
        """Normalize by the statistics of this batch, which enter the running ones where these are tracked."""
        share = self._count_batch()
        mean, var = (None, None) if share is None else (self.running_mean, self.running_var)
        return batch_norm(x, mean, var, *self.affine_map(), self.eps, share)

    def _count_batch(self) -> float | None:
        """Count the batch and return its share in the running statistics; None where these stay."""
        if not self.track_running_stats or self.num_batches_tracked is None:
            return None
        self.num_batches_tracked.add_(1)
        return 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum

    def extra_repr(self) -> str:
        options = f"eps={self.eps}, momentum={self.momentum}, min_clips={self.min_clips}"
        return f"{super().extra_repr()}, {options}"


def statistics_dtype(x: Tensor) -> torch.dtype:
    """fp32, or fp64 for fp64 x."""
    return torch.promote_types(x.dtype, torch.float32)


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    share: float | None = None,
) -> Tensor:
    """F.batch_norm with statistics and affine map in fp32 also where the module was cast to bf16.

    Without `share` it normalizes by the running statistics, or by those of x where there are none; with it,
    by those of x, of which `share` enters the running ones.
    """
    dtype = statistics_dtype(x)
    training = share is not None or running_mean is None
    mean, var = (None if running is None else running.to(dtype) for running in (running_mean, running_var))
    y = F.batch_norm(x, mean, var, weight.to(dtype), bias.to(dtype), training, share or 0.0, eps)
    if share is not None:
        for running, new in ((running_mean, mean), (running_var, var)):
            if running is not None and new is not None and new is not running:
                running.copy_(new)
    return y
