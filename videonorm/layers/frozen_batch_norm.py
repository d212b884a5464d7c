"""Batch normalization by fixed statistics."""

from typing import Any

import torch
from torch import Tensor, nn

from videonorm.layers.batch_norm import batch_norm, statistics_dtype
from videonorm.layers.norm import Activation, Norm
from videonorm.ops.registration import needs_reference


class FrozenBatchNorm3d(Norm):
    """Batch normalization by fixed statistics, in training too: ``.train()`` changes nothing.

        y = weight[c] * (x - running_mean[c]) / sqrt(running_var[c] + eps) + bias[c]

    By default weight and bias are fixed as well, as in Non-local Networks (arXiv:1711.07971) and Detectron:
    all four are buffers, without gradient or weight decay, and nothing the size of x is kept for backward.
    The state_dict keys are those of BatchNorm3d, so that the checkpoint of one loads into the other.

    Args:
        num_channels: C.
        eps: added to the variance.
        train_affine: learn weight and bias; then only the statistics are fixed.
        activation: "relu" or None.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_channels: int,
        *,
        eps: float = 1e-5,
        train_affine: bool = False,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(num_channels, activation=activation)
        self.eps = eps
        self.train_affine = train_affine
        for name, value in (("weight", torch.ones(num_channels)), ("bias", torch.zeros(num_channels))):
            if train_affine:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))  # only for the checkpoint's key

    def normalize(self, x: Tensor) -> Tensor:
        apply = batch_norm if self.train_affine or needs_reference() else _FixedAffine.apply
        y: Tensor = apply(x, self.running_mean, self.running_var, self.weight, self.bias, self.eps)
        return y

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, eps={self.eps}, train_affine={self.train_affine}"


class _FixedAffine(torch.autograd.Function):
    """Batch norm by constants in one pass, which keeps one scale a channel for backward, and not x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        dtype = statistics_dtype(x)
        scale = weight.to(dtype) * torch.rsqrt(var.to(dtype) + eps)
        ctx.save_for_backward(scale.view(-1, 1, 1, 1))
        return batch_norm(x, mean, var, weight, bias, eps)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = ctx.saved_tensors
        return (grad_y * scale).to(grad_y.dtype), None, None, None, None, None
