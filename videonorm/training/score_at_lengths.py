"""Every video's scores at the end of a training, by clips of other lengths too: scores.npz.

What runs are compared by: video by video, and each at the clip lengths that the others were trained at.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from numpy.typing import NDArray
from torch.utils.data import BatchSampler

from videonorm.data import VideoLoader
from videonorm.data.decoding.location import without_credentials
from videonorm.data.entries import UNLABELLED
from videonorm.errors import UserError
from videonorm.evaluation.scores import VideoScores
from videonorm.files import open_new
from videonorm.messages import one_line
from videonorm.training.callbacks import parts, say
from videonorm.training.interruption import Interruption
from videonorm.training.scoring import Scored
from videonorm.training.throughput import clock_of


class View(NamedTuple):
    """What of a video is scored."""

    num_frames: int
    frame_stride: int  # 0 where frames are taken by their time, or by another's data loader
    num_clips: int

    def __str__(self) -> str:
        return f"{self.num_frames}x{self.frame_stride}" + (f"x{self.num_clips}" if self.num_clips > 1 else "")


class ViewScores(NamedTuple):
    """A view's row of scores.npz."""

    view: View
    num_crops: int
    scores: VideoScores
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """Means over the scored videos, for run.json."""
        metrics = self.scores.metrics()
        means = {name: None if self.error else metrics[name] for name in ("top1", "top5", "loss")}
        videos = 0 if self.error else int(metrics["videos"])
        about = {**self.view._asdict(), "num_crops": self.num_crops}
        return {**about, **means, "videos": videos, "error": self.error}

    def of_videos(self, values: torch.Tensor) -> NDArray[np.float32]:
        """(N,): nan for a bad video, and for all where there is an error."""
        known = self.scores.scored if self.error is None else torch.zeros_like(self.scores.scored)
        return values.masked_fill(~known, torch.nan).float().cpu().numpy()


class ScoreAtLengths(Callback):
    """Validates once more when training has ended, by other clips, and keeps the scores of every video.

    It stands beside a ``RunRecord``, which calls it after the last validation. scores.npz in the run folder
    has, for N videos and K views, the run's own validation first and then ``views``, each once: path (N,),
    label (N,), num_frames, frame_stride (0 where frames are taken by their time), num_clips, num_crops (K,),
    and top1, top5, loss (K, N), float32. top1 and top5 are the chance that the label is among the first, in
    random order where scores are equal; a bad video has nan. The means are in run.json, under ``views``. No
    other record changes, and no other callback sees these validations.

    A view that the network cannot take, or that is longer than every video, has nan and its reason in
    run.json; the others go on. The network is given as many frames at once as in the run's own validation.

    Args:
        views: num_frames, frame_stride and num_clips of each, such as [[4, 4, 1], [16, 1, 1]]; frame_stride
            is 0 where the data module's own frames_per_second is to be kept. Crops are the run's own.
    """

    def __init__(self, views: list[tuple[int, int, int]]) -> None:
        self.views = [View(*view) for view in views]
        for view in self.views:
            for name, least in (("num_frames", 1), ("frame_stride", 0), ("num_clips", 1)):
                if (value := getattr(view, name)) < least:
                    raise UserError(f"views ({view}): {name} ({value}) must be at least {least}")

    def check(self, trainer: Trainer) -> None:
        _, data = parts(trainer)
        name = "trainer.callbacks (ScoreAtLengths)"
        if sum(isinstance(other, ScoreAtLengths) for other in trainer.callbacks) > 1:  # type: ignore[attr-defined]
            raise UserError(f"{name} must be there once, with all views")
        if clock_of(trainer) is None:
            raise UserError(f"{name} must have a RunRecord beside it, which calls it")
        if not trainer.enable_validation or (data and "val" not in data.manifests):
            raise UserError(f"{name} must have videos to validate on")
        if self.views and not data:
            raise UserError(f"{name} must have no views: another's data loader takes the clips")
        for view in self.views:
            by_time = data is not None and data.clip_spec.frame_stride is None
            if by_time != (view.frame_stride == 0):
                wanted = "0 beside data.frames_per_second" if by_time else "at least 1"
                raise UserError(f"views ({view}): frame_stride ({view.frame_stride}) must be {wanted}")

    def score(self, trainer: Trainer) -> Iterator[ViewScores]:
        """The run's own validation, which must be the last one, and the views as they are scored."""
        classifier, data = parts(trainer)
        loaders: Any = trainer.val_dataloaders
        loader = loaders[0] if isinstance(loaders, list | tuple) else loaders
        own = classifier.epoch_scores
        if data is None:
            first = ViewScores(View(classifier.batch_sizes.num_frames or 0, 0, 1), 1, own.table)
        else:
            sampling, num_crops = loader.dataset.sampling, data.val_views.num_crops
            view = View(sampling.num_frames, sampling.frame_stride or 0, sampling.num_clips)
            first = ViewScores(view, num_crops, own.table)
        found = [first]
        yield first
        others = [view for view in dict.fromkeys(self.views) if view != first.view]
        if others:
            say(trainer, f"validating at {', '.join(map(str, others))}, too")
        for view in others:
            found.append(ViewScores(view, first.num_crops, *_score(trainer, loader, view)))
            if found[-1].error:
                say(trainer, f"not validated at {view}: {found[-1].error}")
            yield found[-1]
        if trainer.is_global_zero:
            _write(Path(trainer.default_root_dir) / "scores.npz", own.videos, found)


def _score(trainer: Trainer, loader: VideoLoader, view: View) -> tuple[VideoScores, str | None]:
    """Scores of the network as it is, or why there are none: as Lightning validates, without its hooks."""
    classifier, _ = parts(trainer)
    own, trained = classifier.epoch_scores, [module for module in classifier.modules() if module.training]
    trainer.validating = True
    classifier.eval()
    try:
        with torch.no_grad(), _taking(loader, view, trainer.num_val_batches[0]):
            _enter_scores(trainer, loader)
        return classifier.scores, None
    except UserError as error:
        return classifier.scores, str(error)
    finally:
        classifier.epoch_scores = own
        for module in trained:
            module.training = True
        trainer.training = True


@contextmanager
def _taking(loader: VideoLoader, view: View, num_batches: float) -> Iterator[None]:
    """Have a loader, with its workers and what they keep of the videos, take the clips of a view.

    They are those of the videos of its first batches, and the network is given as many frames at once.
    """
    dataset, sampling, batches = loader.dataset, loader.dataset.sampling, loader.batch_sampler
    stride = {"frame_stride": view.frame_stride} if view.frame_stride else {}
    dataset.sampling = replace(sampling, num_frames=view.num_frames, num_clips=view.num_clips, **stride)
    videos = islice(loader.sampler, min(int(num_batches * batches.batch_size), len(dataset)))
    size = max(1, batches.batch_size * sampling.num_frames // view.num_frames)
    loader.batch_sampler = BatchSampler(list(videos), size, drop_last=False)
    try:
        yield
    finally:
        dataset.sampling, loader.batch_sampler = sampling, batches


def _enter_scores(trainer: Trainer, loader: VideoLoader) -> None:
    """Raise UserError, on every process, where the loader's videos cannot be scored."""
    (classifier, data), strategy = parts(trainer), trainer.strategy
    assert data is not None
    interruptions = [of for of in trainer.callbacks if isinstance(of, Interruption)]  # type: ignore[attr-defined]
    classifier.start_scores(loader)
    longest = 0.0  # video, of those that this process has scored
    bad: dict[str, str] = {}
    for number, batch in enumerate(loader):
        longest = max([longest, *batch.lengths])
        bad |= {without_credentials(video.path): video.reason for video in batch.bad}
        error = None
        try:
            # What is bad for these clips is not so for the run's own, whose record the data module keeps.
            arrived = strategy.batch_to_device(replace(batch, bad=[]))
            strategy.validation_step(arrived, number)
        except Exception as failure:  # of whatever kind the network makes it
            error = f"{type(failure).__name__}: {one_line(failure)}"
        if strategy.reduce_boolean_decision(error is not None, all=False):
            raise UserError(error or "another process could not")
        for interruption in interruptions:
            interruption.end_if_asked(trainer)
    classifier.gather_scores()
    longest, num_bad = (
        classifier.over_processes(torch.tensor(float(count), device=classifier.device), how).item()
        for count, how in ((longest, "max"), (len(bad), "sum"))
    )
    videos = num_bad + int(classifier.scores.scored.sum())
    allowed = data.bad_videos.max_bad_fraction
    if num_bad > allowed * videos:
        such = "".join(f": {path} {reason}" for path, reason in islice(bad.items(), 1))
        raise UserError(
            f"max_bad_fraction ({allowed:g}) must cover the videos that cannot be used, which are "
            f"{num_bad:g} of {videos:g}{such}"
        )
    sampling = loader.dataset.sampling
    if longest < sampling.span:
        span, has = map(sampling.in_words, (sampling.span, longest))
        raise UserError(f"a clip of {sampling} spans {span}, and the longest video has {has}")


def _write(path: Path, videos: list[Scored], views: list[ViewScores]) -> None:
    """scores.npz; it holds no Python objects, so that it is read without unpickling."""
    labels = [UNLABELLED if video.label is None else video.label for video in videos]
    arrays: dict[str, Any] = {
        "path": np.array([video.path for video in videos], np.str_),
        "label": np.array(labels, np.int64),
        **{name: np.array([getattr(of.view, name) for of in views], np.int64) for name in View._fields},
        "num_crops": np.array([of.num_crops for of in views], np.int64),
        "top1": np.stack([of.of_videos(of.scores.within(1)) for of in views]),
        "top5": np.stack([of.of_videos(of.scores.within(5)) for of in views]),
        "loss": np.stack([of.of_videos(of.scores.loss) for of in views]),
    }
    with open_new(path, "wb") as file:
        np.savez_compressed(file, **arrays)
