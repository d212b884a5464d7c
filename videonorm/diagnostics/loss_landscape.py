"""The loss along its gradient: how far it predicts, and how smooth it is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from videonorm.diagnostics.grid import log_grid
from videonorm.diagnostics.recorder import Recorder, Row
from videonorm.diagnostics.subject import Subject, norm_of
from videonorm.diagnostics.undisturbed import trained_parameters, weights_of_its_own
from videonorm.errors import UserError


class LossLandscape(Recorder):
    """loss_landscape.csv: a row for each step size s; loss_landscape_summary.csv: a row for all of them.

    With g the gradient of the loss L of the probe by the trained weights w, in training mode, in fp32 (fp64
    where training has it) and with the same dropout throughout (Santurkar et al., arXiv:1805.11604, section
    3; Bjorck et al., arXiv:1806.02375, have the ratio):

    - ``loss_ratio`` = L(w - s g) / L(w)
    - ``grad_distance`` = |g(w - s g) - g(w)|, of which ``predictiveness`` is the largest
    - ``smoothness`` = the largest of grad_distance / (s |g(w)|), the effective beta
    - ``largest_step``: the largest s whose loss_ratio is at most 1; 0 if none is
    - ``grad_norm`` = |g(w)|, ``weight_norm`` = |w|: what makes the others relative, as the scale of weights
      before a norm changes nothing but these

    A maximum over what is not finite somewhere is not finite.

    Cost: as many forwards and backwards as there are step sizes, and one more, 10 by default; in memory two
    copies of the weights, two of their gradient, and what fp32 takes beyond a mixed precision.

    Args:
        every_n_steps: see ``Recorder``.
        min_step, max_step: the ends of the range of s.
        per_decade: how many s are in a factor of ten.
    """

    tables = {
        "loss_landscape": ("step_size", "loss_ratio", "grad_distance"),
        "loss_landscape_summary": (
            *("largest_step", "predictiveness", "smoothness"),
            *("grad_norm", "weight_norm"),
        ),
    }

    def __init__(
        self,
        every_n_steps: int = 250,
        min_step: float = 1e-5,
        max_step: float = 1e-1,
        per_decade: int = 2,
    ) -> None:
        super().__init__(every_n_steps)
        self.grid = log_grid(min_step, max_step, per_decade, ("min_step", "max_step"))

    def check(self, trainer: Trainer) -> None:
        super().check(trainer)
        if trainer.precision in ("16-true", "bf16-true", "transformer-engine", "transformer-engine-float16"):
            raise UserError(
                f"trainer.precision ({trainer.precision}) must leave weights in fp32 for trainer.callbacks "
                "(LossLandscape)"
            )

    def measure(self, subject: Subject) -> Mapping[str, Sequence[Row]]:
        with weights_of_its_own(subject.module) as parameters:
            start = [parameter.data for parameter in parameters]
            loss, gradient = _loss_and_gradient(subject, parameters)
            length = norm_of(gradient)
            rows: list[dict[str, float]] = []
            for step_size in self.grid:
                for parameter, w, g in zip(parameters, start, gradient, strict=True):
                    parameter.data = w - step_size * g
                there, gradient_there = _loss_and_gradient(subject, parameters)
                rows.append(
                    {
                        "step_size": step_size,
                        "loss_ratio": _ratio(there, loss),
                        "grad_distance": norm_of(
                            [a - b for a, b in zip(gradient_there, gradient, strict=True)]
                        ),
                    }
                )
        distances = np.array([row["grad_distance"] for row in rows])
        with np.errstate(divide="ignore", invalid="ignore"):
            smoothness = float(np.max(distances / (np.array(self.grid) * length)))
        summary = {
            "largest_step": max((row["step_size"] for row in rows if row["loss_ratio"] <= 1), default=0.0),
            "predictiveness": float(np.max(distances)),
            "smoothness": smoothness,
            "grad_norm": length,
            "weight_norm": norm_of(trained_parameters(subject.module)),
        }
        return {"loss_landscape": rows, "loss_landscape_summary": [summary]}


def _loss_and_gradient(subject: Subject, parameters: list[nn.Parameter]) -> tuple[float, list[Tensor]]:
    loss = subject.loss(mixed_precision=False)
    found: Any = torch.autograd.grad(loss, parameters, allow_unused=True)
    gradient = [
        torch.zeros_like(parameter) if of is None else of
        for parameter, of in zip(parameters, found, strict=True)
    ]
    return float(loss.detach()), gradient


def _ratio(there: float, here: float) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.float64(there) / here)
