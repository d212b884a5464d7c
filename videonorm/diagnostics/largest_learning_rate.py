"""The largest learning rate at which a training does not diverge."""

import copy
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from videonorm.diagnostics.grid import log_grid
from videonorm.diagnostics.recorder import Recorder, Row
from videonorm.diagnostics.subject import Subject
from videonorm.diagnostics.undisturbed import undisturbed, weights_of_its_own
from videonorm.errors import UserError

PER_DECADE = 4  # neighbours in the grid are a factor of 10^(1/4) = 1.78 apart


class LargestLearningRate(Recorder):
    """largest_learning_rate.csv: one row, of step 0: ``largest_lr``.

    It is the largest of the learning rates min_lr * 10^(i/4) up to max_lr that is stable, or 0 if none is.
    Whether one is stable, a trial says: from the initial weights, with the optimizer of the run, its state
    fresh, at that learning rate (times the lr_scales of parts), without warm-up or schedule, ``steps``
    updates are made on the probe, each on the same batch, with the gradient clipping of the run
    (``configure_gradient_clipping``). The learning rate is stable if the loss of the probe in training mode
    is finite, and at most ``limit`` times what it was before the first update, behind each of the updates.

    Learning rates are tried by bisection, as if those above one that is not stable were none either:
    log2(n + 1) trials for n of them, rounded up, which are 5 of 29 by default. A ``largest_lr`` of the last
    in the grid says that it is at least so large. That is a few steps on one batch: a learning rate that is
    stable here may still diverge later, or with other batches, and a warm-up may carry one that is not. Where
    a step of the smallest is already too large, as in deep networks without norms, min_lr should be less.

    Cost, once: at most ``steps`` + 1 forwards and ``steps`` backwards a trial, 50 training steps by default;
    while it lasts, the memory of one more copy of the weights. A run that goes on does not do it again.

    Args:
        min_lr, max_lr: the ends of the grid.
        steps: updates of a trial.
        limit: of the loss, in multiples of the initial one.
    """

    tables = {"largest_learning_rate": ("largest_lr",)}

    def __init__(
        self, min_lr: float = 1e-6, max_lr: float = 10.0, steps: int = 10, limit: float = 4.0
    ) -> None:
        super().__init__(every_n_steps=1)
        self.grid = log_grid(min_lr, max_lr, PER_DECADE, ("min_lr", "max_lr"))
        if steps < 1:
            raise UserError(f"steps ({steps}) must be at least 1")
        if not 1 < limit < math.inf:
            raise UserError(f"limit ({limit:g}) must be above 1, and finite")
        self.steps, self.limit = steps, limit

    def is_due(self, step: int, ended: bool) -> bool:
        return step == 0 and not ended

    def measure(self, subject: Subject) -> Mapping[str, Sequence[Row]]:
        below, above = -1, len(self.grid)  # stable, and not
        while above - below > 1:
            middle = (below + above) // 2
            if self.is_stable(subject, self.grid[middle]):
                below = middle
            else:
                above = middle
        return {"largest_learning_rate": [{"largest_lr": self.grid[below] if below >= 0 else 0.0}]}

    def is_stable(self, subject: Subject, lr: float) -> bool:
        """Whether a training of some steps at this learning rate does not diverge."""
        trainer, module = subject.trainer, subject.module
        initial = None
        with (
            undisturbed(module, trainer.strategy.root_device),
            weights_of_its_own(module) as parameters,
        ):
            optimizer = fresh(trainer.optimizers[0], lr)
            for step in range(self.steps + 1):
                loss = subject.loss()
                value = float(loss.detach())
                initial = value if initial is None else initial
                if not math.isfinite(value) or value > self.limit * initial:
                    return False
                if step == self.steps:
                    break
                gradients: Any = torch.autograd.grad(loss, parameters, allow_unused=True)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                module.configure_gradient_clipping(
                    optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
                )
                optimizer.step()
        return True


def fresh(optimizer: Optimizer, lr: float) -> Optimizer:
    """One of the same class and options and for the same weights, as before its first step."""
    new = copy.copy(optimizer)
    new.state = defaultdict(dict)
    new.param_groups = [{**group, "lr": lr * group.get("lr_scale", 1.0)} for group in optimizer.param_groups]
    return new
