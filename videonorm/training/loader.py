"""The training loader: the order of clips follows from seed and epoch, and can be entered in the middle."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, DistributedSampler


class EpochSampler(DistributedSampler[Any]):
    """Shuffles by (seed, epoch) and deals the clips out to the processes.

    Args:
        dataset: told the epoch, so that its own random choices can follow from it (``set_epoch``).
        start: clips of the next pass, of this process, to leave out.
    """

    def __init__(self, dataset: Dataset[Any], num_replicas: int, rank: int, seed: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed, drop_last=True)
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.dataset.set_epoch(epoch)  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Any]:
        start, self.start = self.start, 0
        yield from list(super().__iter__())[start:]


class ResumableLoader(DataLoader[Any]):
    """A DataLoader over an EpochSampler that knows how far it came; Lightning checkpoints its state."""

    batches = 0
    """Batches of the current epoch that were handed out."""
    resumed = 0
    """Batches of the next pass that an earlier session has used."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: nothing is drawn before the first batch is asked for, when Lightning has set the epoch.
        assert isinstance(self.sampler, EpochSampler) and self.batch_size is not None
        self.batches, self.resumed = self.resumed, 0
        self.sampler.start = self.batches * self.batch_size
        for batch in super().__iter__():
            self.batches += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"batches": self.batches % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.resumed = state["batches"]
