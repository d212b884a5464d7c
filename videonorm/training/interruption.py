"""SIGTERM and Ctrl-C: the step in work is finished, the run is saved, and the process says how to go on."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, callbacks
from lightning.pytorch.trainer.states import TrainerFn

from videonorm.interruption import Stopped as Stopped


class Interruption(Callback):
    """Ends a command that is asked to end: between two batches, and a training run right after a step.

    What accumulates gradients goes on until it has stepped, as these are in no checkpoint. A validation that
    is due or in work is left out. A second Ctrl-C ends the process where it is. Of several processes all end
    as soon as one is asked to.

    Args:
        checkpoint: the file that a training run is saved to.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.asked = 0  # number of the signal
        self._said = False
        self._before: dict[int, Any] = {}

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not earlier: Lightning sets a handler of its own between `setup` and here, which ends a run with
        # exit code 0 and saves nothing. Python's own for Ctrl-C would break into a step.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                before = signal.signal(number, self._ask)
                self._before.setdefault(number, before)

    on_train_start = on_validation_start = on_test_start = on_predict_start = on_sanity_check_start

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()
        if isinstance(exception, Stopped) and not self._said and trainer.is_global_zero:
            print("\nstopped at once, without saving", flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last_of_epoch = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if last_of_epoch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.end_if_asked(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.end_if_asked(trainer, lambda: _put_back(trainer, pl_module))

    def on_test_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self.end_if_asked(trainer)

    def on_predict_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self.end_if_asked(trainer)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise Stopped(number)  # not KeyboardInterrupt, for which Lightning's exit code is 1
        self.asked = number

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def end_if_asked(self, trainer: Trainer, before: Callable[[], None] = lambda: None) -> None:
        """Raise Stopped if the process, or another, was asked to end, and save a training run.

        Args:
            before: called before it is saved.
        """
        asked = self.asked
        if trainer.world_size > 1:
            if not trainer.strategy.reduce_boolean_decision(bool(asked), all=False):
                return
            asked = asked or signal.SIGTERM
        if not asked:
            return
        sentence = "stopped"
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            before()
            trainer.save_checkpoint(self.checkpoint)
            sentence = f"stopped at step {trainer.global_step}; --ckpt_path last goes on"
        self._said = True
        if trainer.is_global_zero:
            print(f"\n{sentence}", flush=True)
        raise Stopped(asked)


def _put_back(trainer: Trainer, pl_module: LightningModule) -> None:
    """Of averaged weights, which a validation has put in the place of those that are trained."""
    averaging = getattr(callbacks, "WeightAveraging", ())  # since Lightning 2.6
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, averaging):
            callback.on_validation_epoch_end(trainer, pl_module)
