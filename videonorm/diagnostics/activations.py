"""Activations and their gradients, block by block, and how they grow with depth."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from videonorm.diagnostics.blocks import blocks
from videonorm.diagnostics.recorder import Recorder, Row
from videonorm.diagnostics.subject import Subject, wide
from videonorm.errors import UserError

OF_VALUES = ("mean", "mean_abs", "variance", "largest", "zero_channels")
OF_GRADIENTS = ("grad_mean_abs", "grad_variance", "grad_largest")


class Activations(Recorder):
    """activations.csv: a row for each block, in the order in which a batch passes them (depth 0, 1, ...).

    Of what a block gives, y (B, C, T, H, W), in training mode on the probe:

    - ``mean``, ``mean_abs``, ``variance`` (biased), ``largest``: mean of y, mean and maximum of abs(y), over
      all values;
    - ``zero_channels``: the share of the channels that are 0 at every place of every clip;
    - ``grad_mean_abs``, ``grad_variance``, ``grad_largest``: the same of the gradient of the loss, which is
      the mean over the clips, by y.

    activation_slopes.csv: the slopes of the least-squares lines through log10 of ``mean_abs`` and of
    ``grad_mean_abs``, a block; nan where one is 0 or not finite, or where there is one block. Source: Bjorck
    et al., "Understanding Batch Normalization", arXiv:1806.02375, whose figure has the means by layer.

    What a block is, ``videonorm.diagnostics.blocks`` says. Cost: one forward, and a backward without the
    gradients of weights, each time; in memory the outputs of the blocks and their gradients on top.

    Args:
        every_n_steps: see ``Recorder``.
    """

    tables = {
        "activations": ("block", "depth", *OF_VALUES, *OF_GRADIENTS),
        "activation_slopes": ("slope_mean_abs", "slope_grad_mean_abs"),
    }

    def __init__(self, every_n_steps: int = 100) -> None:
        super().__init__(every_n_steps)

    def require(self, network: nn.Module) -> None:
        if not blocks(network):
            raise UserError(
                f"backbone ({type(network).__name__}) must have blocks for trainer.callbacks (Activations): "
                "modules with is_block, or made of others in an nn.Sequential"
            )

    def measure(self, subject: Subject) -> Mapping[str, Sequence[Row]]:
        outputs: dict[str, Tensor] = {}
        values: dict[str, Tensor] = {}

        def note(name: str, y: Tensor) -> None:
            if name in outputs:  # once more, in an activation checkpoint's backward
                return
            # Of a part that is not trained: the gradient by what it gives is that of those behind it.
            outputs[name] = y if y.requires_grad else y.requires_grad_()
            values[name] = _of_values(y.detach())

        handles = [
            module.register_forward_hook(lambda _module, _x, y, name=name: note(name, y))
            for name, module in blocks(subject.network).items()
        ]
        try:
            loss = subject.loss()
        finally:
            for handle in handles:
                handle.remove()
        gradients: Any = torch.autograd.grad(loss, list(outputs.values()), allow_unused=True)
        rows: list[dict[str, Any]] = []
        for depth, (name, gradient) in enumerate(zip(outputs, gradients, strict=True)):
            of_values = dict(zip(OF_VALUES, values[name].tolist(), strict=True))
            by_loss = (math.nan,) * 3 if gradient is None else _of_gradient(gradient).tolist()
            of_gradient = dict(zip(OF_GRADIENTS, by_loss, strict=True))
            rows.append({"block": name, "depth": depth, **of_values, **of_gradient})
        slopes = {
            f"slope_{column}": log_slope([row[column] for row in rows])
            for column in ("mean_abs", "grad_mean_abs")
        }
        return {"activations": rows, "activation_slopes": [slopes]}


def _of_values(y: Tensor) -> Tensor:
    y = wide(y)
    variance, mean = torch.var_mean(y, correction=0)
    magnitude = y.abs()
    of_channels = magnitude.amax(dim=[0, *range(2, y.dim())])
    zero = (of_channels == 0).to(y.dtype).mean()
    return torch.stack([mean, magnitude.mean(), variance, of_channels.max(), zero])


def _of_gradient(gradient: Tensor) -> Tensor:
    gradient = wide(gradient)
    magnitude = gradient.abs()
    return torch.stack([magnitude.mean(), gradient.var(correction=0), magnitude.max()])


def log_slope(magnitudes: Sequence[float]) -> float:
    """Of log10 of the magnitudes of things that follow one another, by least squares."""
    if len(magnitudes) < 2:
        return math.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(stats.linregress(np.arange(len(magnitudes)), np.log10(magnitudes)).slope)
