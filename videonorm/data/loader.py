"""Batches of clips. Their order and content follow from seed and epoch alone, not from who loads them."""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.utils.data import BatchSampler, DistributedSampler, Sampler, SequentialSampler

from videonorm.data.dataset import About, Batch, Sample, VideoDataset, empty_frames, stack
from videonorm.data.decoding import Decoder
from videonorm.data.sampling import Sampling
from videonorm.data.shared_memory import Inbox, Outbox, Parcel
from videonorm.data.workers import Note, WorkerDied, Workers
from videonorm.errors import UserError
from videonorm.machine import available_cores

_AHEAD = 2  # batches that each worker is asked for before they are wanted
_SAMPLE = 128  # videos, of which it is said at once how many are shorter than a clip


class EpochSampler(DistributedSampler[Any]):
    """Shuffles by (seed, epoch) and deals the videos out to the processes; tells the dataset the epoch."""

    def __init__(self, dataset: VideoDataset, num_replicas: int, rank: int, seed: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed, drop_last=True)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.dataset.epoch = epoch  # type: ignore[attr-defined]


class VideoLoader:
    """The batches of an epoch, each time it is iterated over.

    A video whose decoder crashes or takes too long costs a worker, which is replaced: it is named in
    ``Batch.bad`` with the reason, as every bad video is, and is not tried again. Without workers there is no
    such protection. Workers serve any number of loaders, and clips of any length: the sampling that
    ``dataset`` has when an epoch begins is told to them with each batch.

    Args:
        batch_size: videos of a batch.
        workers: the processes that load; ``None`` loads in this one.
        sampler: the indices of an epoch; by default all, in order.
        drop_last: leave out a last batch that is not full.
        pin_for: a CUDA device: batches come in pinned memory, for asynchronous copies to it.
        plan: where batches are not alike: for the number of an epoch, how many videos each batch has and the
            sampling of their clips, in place of ``batch_size`` and the dataset's own.
    """

    batches = 0
    """Batches of the current epoch that were handed out."""
    resumed = 0
    """Batches of the next epoch that an earlier session has used."""

    def __init__(
        self,
        dataset: VideoDataset,
        batch_size: int,
        workers: Workers | None = None,
        *,
        sampler: Sampler[int] | None = None,
        drop_last: bool = False,
        pin_for: torch.device | None = None,
        plan: Callable[[int], Sequence[tuple[int, Sampling]]] | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size ({batch_size}) must be at least 1")
        self.dataset = dataset
        self.workers = workers
        self.sampler = SequentialSampler(dataset) if sampler is None else sampler
        self.batch_sampler = BatchSampler(self.sampler, batch_size, drop_last)  # Lightning looks for both
        self.pin_for = pin_for
        self.plan = plan
        self._task = workers.add(partial(_load_and_send, dataset)) if workers else -1
        self._refused: Mapping[int, str] = {}
        # Of several processes one speaks.
        self._lengths = _Lengths(dataset) if getattr(sampler, "rank", 0) == 0 else None

    def __len__(self) -> int:
        return len(self.plan(self.dataset.epoch) if self.plan else self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing is drawn before the first batch is asked for, when Lightning has set the epoch.
        self.batches, self.resumed = self.resumed, 0
        requests = islice(self._requests(), self.batches, None)
        loaded = self._load_ahead(requests, self.workers) if self.workers else self._load_here(requests)
        lengths, length = self._lengths, len(self)
        if lengths:
            lengths.begin()
        for batch in loaded:
            self.batches += 1
            if lengths:
                lengths.add(batch)
                if self.batches == length:  # here: who knows the length asks for no more
                    lengths.say()
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"batches": self.batches % len(self) if len(self) else 0}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """The next epoch goes on behind the batches that were handed out; with any number of workers."""
        self.resumed = state["batches"]

    def _requests(self) -> Iterator["_Request"]:
        for indices, sampling in self._batches():
            yield _Request(indices, self.dataset.epoch, sampling, self._refused)

    def _batches(self) -> Iterator[tuple[list[int], Sampling]]:
        if self.plan is None:
            for indices in self.batch_sampler:
                yield indices, self.dataset.sampling
        else:
            order = iter(self.sampler)
            for videos, sampling in self.plan(self.dataset.epoch):
                yield list(islice(order, videos)), sampling

    def _load_here(self, requests: Iterable["_Request"]) -> Iterator[Batch]:
        for request in requests:
            samples = _samples(self.dataset, request, lambda number: None)
            frames, about = stack(samples, len(request.indices))
            yield _pin(about.batch(frames), self.pin_for)

    def _load_ahead(self, requests: Iterable["_Request"], workers: Workers) -> Iterator[Batch]:
        pending: deque[tuple[_Request, Future[Batch]]] = deque()
        try:
            for request in requests:
                pending.append((request, self._submit(request, workers)))
                if len(pending) > _AHEAD * workers.num_workers:
                    yield self._result(*pending.popleft(), workers)
            while pending:
                yield self._result(*pending.popleft(), workers)
        finally:
            for _, future in pending:
                future.cancel()

    def _result(self, request: "_Request", future: "Future[Batch]", workers: Workers) -> Batch:
        while True:
            try:
                return future.result()
            except WorkerDied as death:
                if death.number is None:
                    raise
                self._refused = {**self._refused, death.number: death.reason}
            future = self._submit(request._replace(refused=self._refused), workers)

    def _submit(self, request: "_Request", workers: Workers) -> "Future[Batch]":
        return workers.submit(self._task, request, partial(_receive, pin_for=self.pin_for))


def decoding_workers(
    num_workers: int | None,
    decoder: Decoder,
    time_limit_seconds: float,
    device: torch.device,
    devices_here: int = 1,
) -> Workers | None:
    """Workers for the loaders of a device; ``None`` for none of them.

    Args:
        num_workers: ``None`` is, for CUDA, this device's share of the cores, at most 8; for the CPU none, as
            the network has the cores.
        devices_here: devices of this machine that are loaded for.
    """
    if num_workers is None:
        num_workers = min(available_cores() // devices_here, 8) if device.type == "cuda" else 0
    if num_workers < 0:
        raise UserError(f"num_workers ({num_workers}) must be at least 0")
    if num_workers == 0:
        return None
    # CUDA cannot be used in a forked process.
    return Workers(num_workers, time_limit_seconds, "spawn" if decoder == "torchcodec_cuda" else None)


class _Request(NamedTuple):
    indices: list[int]
    epoch: int
    sampling: Sampling
    refused: Mapping[int, str]


class _Lengths:
    """Says once that videos are shorter than a clip: as soon as a sample was read, or at an epoch's end."""

    def __init__(self, dataset: VideoDataset) -> None:
        self._dataset = dataset
        self._said = dataset.short_video == "error"  # they are bad videos then
        self.begin()

    def begin(self) -> None:
        self._videos = 0
        self._short: list[float] = []  # their lengths

    def add(self, batch: Batch) -> None:
        if self._said:
            return
        span = self._dataset.sampling.span
        before = self._videos
        self._videos += len(batch)
        self._short += [length for length in batch.lengths if length < span]
        if before < _SAMPLE <= self._videos:
            self.say()

    def say(self) -> None:
        if self._said or not self._short:
            return
        self._said = True
        dataset, sampling = self._dataset, self._dataset.sampling
        action = "they loop" if dataset.short_video == "loop" else "their last frame is repeated"
        span, shortest = map(sampling.in_words, (sampling.span, min(self._short)))
        warnings.warn(
            f"videos shorter than a clip of {sampling}, which spans {span}: {len(self._short):,} of "
            f"{self._videos:,} read of {dataset.manifest.path}, the shortest has {shortest}; {action} "
            "(short_video)",
            stacklevel=2,
        )


_outbox = Outbox()  # of this process, where it is a worker
_inbox = Inbox()


def _load_and_send(dataset: VideoDataset, request: _Request, note: Note) -> tuple[Parcel | None, About]:
    """A batch on its way from a worker; its frames are in a parcel, if there are any."""
    frames, about = stack(_samples(dataset, request, note), len(request.indices), _outbox.empty)
    return _outbox.post(frames) if about.sizes else None, about


def _receive(loaded: tuple[Parcel | None, About], pin_for: torch.device | None) -> Batch:
    parcel, about = loaded
    return _pin(about.batch(empty_frames() if parcel is None else _inbox.open(parcel)), pin_for)


def _samples(dataset: VideoDataset, request: _Request, note: Note) -> Iterator[Sample]:
    indices, epoch, sampling, refused = request
    for index in indices:
        sample = dataset.sample(index, epoch, sampling=sampling, refused=refused, begin=note)
        note(None)
        yield sample


def _pin(batch: Batch, device: torch.device | None) -> Batch:
    if device is None:
        return batch
    torch.cuda.set_device(device)  # of the thread that runs this, or it would open the first GPU
    return batch.pin_memory()
