"""Gradients where classes are told apart: whether they depend on the input, and how heavy their tails are."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from videonorm.diagnostics.recorder import Recorder, Row
from videonorm.diagnostics.subject import Subject
from videonorm.errors import UserError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LogitGradients(Recorder):
    """logit_gradients.csv: a row each time, of the gradients on the probe in training mode.

    With G (B, K) the gradients of the clips' losses by their logits, whose heat map Bjorck et al.,
    arXiv:1806.02375, show, and f (B, D) what the last linear layer is fed, so that a clip's gradient of that
    layer's weights is the outer product G_b f_b:

    - ``top_column_share``: the largest, over the classes, of the sums of the positive entries of a column of
      G, as a share of the sum of all positive entries. 1: whatever the clip, one class alone is pushed down;
      1/K: all are equally. nan where there is no positive entry.
    - ``input_dependence`` = 1 - S, where S = sum over pairs a != b of <G_a, G_b> <f_a, f_b>, divided by
      (B - 1) sum over b of |G_b|^2 |f_b|^2: the mean product of the gradients of two clips, in terms of that
      of a gradient with itself. 0: they are the same whatever the clip; 1: those of two clips have nothing in
      common; above 1: they oppose each other. nan with one clip.
    - ``kurtosis``: of the values of the gradient by the weights of the middle convolution (of the n that are
      trained, the one with n // 2 before it, in the order of the modules): the fourth central moment over the
      square of the second, 3 for normal ones. nan if all are the same, as behind a gamma of 0.

    Where the last layer is applied to every place of a clip, as in PyTorchVideo's heads, f is the mean over
    the places. Cost: a forward, and a backward as far as the middle convolution.

    Args:
        every_n_steps: see ``Recorder``.
    """

    tables = {"logit_gradients": ("top_column_share", "kurtosis", "input_dependence")}

    def __init__(self, every_n_steps: int = 100) -> None:
        super().__init__(every_n_steps)

    def require(self, network: nn.Module) -> None:
        name = type(network).__name__
        if not any(isinstance(module, nn.Linear) for module in network.modules()):
            raise UserError(
                f"backbone ({name}) must end in a linear layer for trainer.callbacks (LogitGradients)"
            )
        if middle_convolution(network) is None:
            raise UserError(
                f"backbone ({name}) must have a convolution that is trained for trainer.callbacks "
                "(LogitGradients)"
            )

    def measure(self, subject: Subject) -> Mapping[str, Sequence[Row]]:
        network = subject.network
        logits: list[Tensor] = []
        fed: list[Tensor] = []
        handles = [network.register_forward_hook(lambda _module, _x, y: logits.append(y))]
        handles += [
            module.register_forward_pre_hook(lambda _module, inputs: fed.append(inputs[0].detach()))
            for module in network.modules()
            if isinstance(module, nn.Linear)
        ]
        try:
            loss = subject.loss()
        finally:
            for handle in handles:
                handle.remove()
        middle = middle_convolution(network)
        assert middle is not None
        of_logits, of_weight = torch.autograd.grad(loss, [logits[-1], middle], allow_unused=True)
        features = fed[-1].double()
        features = features.flatten(1, -2).mean(dim=1) if features.dim() > 2 else features
        of_logits = of_logits.double()
        row = {
            "top_column_share": top_column_share(of_logits),
            "kurtosis": math.nan if of_weight is None else kurtosis(of_weight),
            "input_dependence": input_dependence(of_logits, features),
        }
        return {"logit_gradients": [row]}


def middle_convolution(network: nn.Module) -> nn.Parameter | None:
    """The weight of the middle one of the convolutions that are trained; None if there is none."""
    weights: list[Any] = [
        next((p for p in module.parameters(recurse=False) if p.requires_grad and p.dim() > 1), None)
        for module in network.modules()
        if isinstance(module, CONVOLUTIONS)
    ]
    trained = [weight for weight in weights if weight is not None]
    return trained[len(trained) // 2] if trained else None


def top_column_share(of_logits: Tensor) -> float:
    columns = of_logits.clamp(min=0).sum(dim=0)
    return float(columns.max() / columns.sum())


def input_dependence(of_logits: Tensor, features: Tensor) -> float:
    products = (of_logits @ of_logits.T) * (features @ features.T)  # (B, B), of the clips' gradients
    own = products.diagonal().sum()
    others = products.sum() - own
    return float(1 - others / ((len(products) - 1) * own))


def kurtosis(gradient: Tensor) -> float:
    values = gradient.detach().double().flatten().cpu().numpy()
    if not np.isfinite(values).all() or np.ptp(values) == 0:
        return math.nan
    return float(stats.kurtosis(values, fisher=False))
