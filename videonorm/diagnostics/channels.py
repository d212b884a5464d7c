"""What norms make of channels: how unlike they are, and which are dead."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from videonorm.diagnostics.recorder import Recorder, Row
from videonorm.diagnostics.subject import Subject, wide
from videonorm.errors import UserError
from videonorm.layers import Norm, norm_layers


class _OfNorm(NamedTuple):
    spread_of_means: Tensor
    spread_of_scales: Tensor
    dead: Tensor  # (C,) bool
    affine: list[nn.Parameter]


class Channels(Recorder):
    """channels.csv: a row for each norm, in the order in which a batch passes them (depth 0, 1, ...).

    With m_c and s_c the mean and the standard deviation (biased) of channel c of what the norm gives, gamma
    and beta included, before a residual is added and the ReLU applied, over all clips and places of the probe
    in training mode:

    - ``spread_of_means`` = std over c of m_c / root of the mean over c of s_c^2
    - ``spread_of_scales`` = std over c of s_c / mean over c of s_c
    - ``dead``: the share of the channels in which the output of the layer, with its residual, is above 0 at
      no place of any clip: a ReLU, the layer's own or one behind it, passes nothing on
    - ``grad_of_dead``, ``grad_of_alive``: root of the mean, over those channels, of the squared norm of the
      gradient of the loss by the channel's own affine parameters; nan where there are no such channels, or
      no such parameters that are trained

    Standard deviations over channels are biased. The spreads do not depend on the scale of the activations;
    they are 0 behind a batch norm whose gamma and beta are as initialized, and not finite behind one whose
    gamma is 0. They are this project's definition of how far channels are from alike, after the statistical
    difference of Qiao et al., arXiv:1903.10520, which was not found as a formula.

    Cost: a forward, in which each norm is computed twice, and a backward.

    Args:
        every_n_steps: see ``Recorder``.
    """

    tables = {
        "channels": (
            *("layer", "depth", "spread_of_means", "spread_of_scales"),
            *("dead", "grad_of_dead", "grad_of_alive"),
        )
    }

    def __init__(self, every_n_steps: int = 100) -> None:
        super().__init__(every_n_steps)

    def require(self, network: nn.Module) -> None:
        if not any(norm_layers(network)):
            raise UserError(
                f"backbone ({type(network).__name__}) must have norms for trainer.callbacks (Channels)"
            )

    def measure(self, subject: Subject) -> Mapping[str, Sequence[Row]]:
        names = {module: name for name, module in subject.network.named_modules()}
        found: dict[str, _OfNorm] = {}

        def note(norm: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> None:
            if names[norm] not in found:  # not once more, in an activation checkpoint's backward
                found[names[norm]] = _look(norm, inputs[0].detach(), y.detach())

        handles = [norm.register_forward_hook(note) for norm in norm_layers(subject.network)]
        try:
            loss = subject.loss()
        finally:
            for handle in handles:
                handle.remove()
        affine = [parameter for of in found.values() for parameter in of.affine]
        gradients: Any = torch.autograd.grad(loss, affine, allow_unused=True) if affine else ()
        by_parameter = dict(zip(affine, gradients, strict=True))
        rows: list[Row] = []
        for depth, (name, of) in enumerate(found.items()):
            grads = [by_parameter[parameter] for parameter in of.affine]
            squares = [grad.double().square() for grad in grads if grad is not None]
            of_channels = torch.stack(squares).sum(dim=0) if squares else None
            rows.append(
                {
                    "layer": name,
                    "depth": depth,
                    "spread_of_means": float(of.spread_of_means),
                    "spread_of_scales": float(of.spread_of_scales),
                    "dead": float(of.dead.double().mean()),
                    "grad_of_dead": _root_mean(of_channels, of.dead),
                    "grad_of_alive": _root_mean(of_channels, ~of.dead),
                }
            )
        return {"channels": rows}


@torch.no_grad()
def _look(norm: nn.Module, x: Tensor, y: Tensor) -> _OfNorm:
    z = y
    if isinstance(norm, Norm):  # others have no residual and no activation
        activation, norm.activation = norm.activation, None
        try:
            z = norm.forward(x)  # of the function alone: not once more with its hooks
        finally:
            norm.activation = activation
    over = (0, *range(2, z.dim()))
    of_channels = torch.var_mean(wide(z), dim=over, correction=0)
    variance, mean = (of.double() for of in of_channels)
    scale = variance.sqrt()
    affine = [
        parameter
        for parameter in norm.parameters(recurse=False)
        if parameter.requires_grad and parameter.shape == mean.shape
    ]
    return _OfNorm(
        mean.std(correction=0) / variance.mean().sqrt(),
        scale.std(correction=0) / scale.mean(),
        (y <= 0).all(dim=over),
        affine,
    )


def _root_mean(squares: Tensor | None, those: Tensor) -> float:
    return math.nan if squares is None or not those.any() else float(squares[those].mean().sqrt())
