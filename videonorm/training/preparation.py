"""What callbacks do before loggers make the run folder."""

from abc import abstractmethod

from lightning.pytorch import Callback, Trainer


class Prepares(Callback):
    """A callback that finds its mistakes, or takes what it needs, before a run leaves anything behind."""

    @abstractmethod
    def prepare(self, trainer: Trainer) -> None:
        """Called once a machine, before training, when the data are known.

        Raises:
            UserError: there is to be no run.
        """
