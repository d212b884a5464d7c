"""Training for a length of time, its schedule with it: what runs of equal wall-clock need."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from videonorm.errors import UserError
from videonorm.training.throughput import clock_of


class TimeBudget(Callback):
    """Ends training with the first step that ends after so many seconds, and runs the schedule on that time.

    The seconds are those of run.json, ``train_seconds``: steps with their data, validation left out, over all
    sessions of a run that goes on. A ``Schedule`` of this package follows the share of them that is gone when
    a step begins; a torch scheduler beside it counts its own steps. ``trainer.max_steps`` and
    ``trainer.max_epochs`` are -1, and run.json's ``total_steps`` is a prediction until the end.

    Such a run is not reproducible to the step: how many steps it takes, and at which learning rates, follows
    from the time that each of them took, with whatever else ran on the machine. What follows from the seed
    alone is the same as ever: the weights at the start, the order of the clips, and how each is cut out.

    Args:
        seconds: of training. Of several processes the slowest clock counts, and all end with the same step.
    """

    def __init__(self, seconds: float) -> None:
        if not 0 < seconds < math.inf:
            raise UserError(f"seconds ({seconds:g}) must be above 0, and finite")
        self.seconds = seconds
        self.total_steps: int | None = None
        """A prediction from the pace of this session, until training ends."""
        self.warmup_steps = 0
        """Steps that began in the schedule's warm-up."""
        self._warmup = 0.0  # as a share of the time
        self._before: float | None = None  # seconds that the session before had
        self._measured: tuple[int, float] | None = None  # a step, and the seconds that were gone with it
        self._first: tuple[int, float] | None = None  # the same of this session's first step
        self._begun = 0  # the step that this session began at
        self._pace: float | None = None  # seconds of a step

    def check(self, trainer: Trainer) -> None:
        for name in ("max_steps", "max_epochs"):
            value = getattr(trainer, name)
            if value != -1:
                raise UserError(f"trainer.{name} ({value}) must be -1 beside TimeBudget, which ends training")
        if clock_of(trainer) is None:
            raise UserError("trainer.callbacks (TimeBudget) must have a RunRecord beside it, for its clock")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer

    def progress(self, step: int) -> float:
        """Share of the time that is gone with ``step`` steps: of all processes, when they first ask."""
        if self._measured is None or self._measured[0] != step:
            clock, strategy = clock_of(self._trainer), self._trainer.strategy
            assert clock is not None
            spent = clock.train_seconds
            if self._trainer.world_size > 1:
                here = torch.tensor(spent, dtype=torch.float64, device=strategy.root_device)
                spent = float(strategy.reduce(here, reduce_op="max"))
            self._measured = step, spent
        return min(1.0, self._measured[1] / self.seconds)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._before not in (None, self.seconds) and trainer.is_global_zero:
            print(f"the schedule is now of {self.seconds:g} seconds, and was of {self._before:g}", flush=True)
        self._warmup = getattr(pl_module.scheduler, "warmup", 0.0)
        self._begun = trainer.global_step
        self._look(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self._begun:
            self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        """At the time; while gradients are accumulated, at that of the last whole step."""
        step = trainer.global_step
        share = self.progress(step)
        if share < self._warmup:
            self.warmup_steps = step + 1
        if share >= 1:
            self.total_steps = step
            trainer.should_stop = True
            return
        self._time_steps(step)
        if self._pace:
            assert self._measured is not None
            self.total_steps = step + math.ceil((self.seconds - self._measured[1]) / self._pace)

    def _time_steps(self, step: int) -> None:
        """Those of this session but for its first, a slower one; until then what is known."""
        assert self._measured is not None
        spent = self._measured[1]
        if step > self._begun and self._first is None:
            self._first = step, spent
            self._pace = self._pace or spent / step
        elif self._first and step > self._first[0]:
            self._pace = (spent - self._first[1]) / (step - self._first[0])

    # The checkpoint

    def state_dict(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "pace": self._pace,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before, self.total_steps = state_dict["seconds"], state_dict["total_steps"]
        self._pace, self.warmup_steps = state_dict["pace"], state_dict["warmup_steps"]
