"""Videos to probabilities, one video after the other: by the views of `videonorm evaluate`, or by windows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from videonorm.data import BadVideoError, Decoder, decoding_workers
from videonorm.data.clip_spec import ClipSpec
from videonorm.data.decoding.location import without_credentials
from videonorm.evaluation.artifact import Artifact
from videonorm.evaluation.outputs import check_logits, view_outputs
from videonorm.evaluation.scores import VideoScores
from videonorm.evaluation.videos import as_manifest
from videonorm.evaluation.windows import Windows


class Classified(NamedTuple):
    """What became of one video."""

    path: str  # or URL, without credentials
    probabilities: Tensor | None  # (K,), None for a video that cannot be used
    reasons: list[str]  # why that is so, or why windows lack; each completes the sentence "the video ..."
    windows: Windows | None = None


def by_views(
    videos: Sequence[str],
    artifact: Artifact,
    clips: ClipSpec,
    device: torch.device,
    *,
    num_clips: int,
    num_crops: int,
    batch_size: int,
    decoder: Decoder = "auto",
    num_workers: int | None = None,
    time_limit_seconds: float = 60.0,
) -> Iterator[Classified]:
    """Classify videos by ``num_clips`` x ``num_crops`` views each; see ``score_videos`` for the arguments.

    Raises:
        UserError: scores that are not finite, or not of the artifact's classes.
    """
    manifest = as_manifest(videos, artifact.card.num_classes)
    dataset = clips.dataset(manifest, num_clips, decoder=decoder)
    transform = clips.transform(num_crops, channels_last=device.type == "cuda").to(device)
    scores = VideoScores(len(videos), artifact.card.num_classes)
    with decoding_workers(num_workers, decoder, time_limit_seconds, device) or nullcontext() as workers:
        for batch, outputs in view_outputs(artifact.network, dataset, transform, device, batch_size, workers):
            if len(batch):
                logits = outputs.flatten(1, 2)
                check_logits(logits, artifact.card.num_classes)
                probabilities = scores.add(batch.index, batch.label, logits)
                if not probabilities.isfinite().all():
                    scores.check_finite("artifact", lambda row: without_credentials(videos[row]))
                for row, of_video in zip(batch.index.tolist(), probabilities, strict=True):
                    yield Classified(without_credentials(videos[row]), of_video, [])
            for path, reason in batch.bad:
                yield Classified(path, None, [reason])


def by_windows(videos: Iterable[str], score: Callable[[str], Windows]) -> Iterator[Classified]:
    """Classify videos by all windows of each; ``score`` is ``score_windows`` but for the path."""
    for path in videos:
        shown = without_credentials(path)
        try:
            windows = score(path)
        except BadVideoError as error:
            yield Classified(shown, None, [error.reason])
        else:
            yield Classified(shown, windows.mean(), windows.reasons, windows)
