"""Lightning's loop over the epochs, but for a training that was stopped when all its steps were done."""

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop


class EndingFitLoop(_FitLoop):
    """Brings a run that goes on to ``on_train_end``, though it has no step left.

    Lightning's leaves it at once. But it may have been stopped in the validations at its end, which are then
    still to be done.

    Args:
        trainer: as it was made; it is given this loop in place of its own.
    """

    def __init__(self, trainer: Trainer) -> None:
        plain = trainer.fit_loop
        super().__init__(trainer, plain.min_epochs, plain.max_epochs)
        self.epoch_loop = plain.epoch_loop
        self._trains = False
        trainer.fit_loop = self

    @property
    def skip(self) -> bool:
        return self.max_batches == 0 or self.trainer.limit_train_batches == 0

    def on_advance_start(self) -> None:
        self._trains = True
        super().on_advance_start()

    def on_run_end(self) -> None:
        if not self._trains:  # what loggers call the step; an epoch that goes on counts one up
            self.epoch_loop._batches_that_stepped = self.epoch_loop.global_step
        super().on_run_end()
