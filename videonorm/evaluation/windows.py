"""A long video by sliding windows: clips from its beginning to its end, each with its own scores."""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from videonorm.data import BadVideoError, Batch, Decoder, open_video
from videonorm.data.clip_spec import ClipSpec
from videonorm.data.dataset import ClipSeconds, clip_seconds, read_clips
from videonorm.data.decoding.location import without_credentials
from videonorm.data.entries import UNLABELLED
from videonorm.evaluation.artifact import Artifact
from videonorm.evaluation.outputs import check_logits, outputs_of, too_small
from videonorm.evaluation.scores import VideoScores


class Windows(NamedTuple):
    """The N windows of a video."""

    seconds: ClipSeconds  # (N) times of the first and the last frame of each
    probabilities: Tensor  # (N, K): softmax, averaged over the crops
    scored: Tensor  # (N,) bool: windows that could be decoded
    reasons: list[str]  # why others could not; each completes the sentence "the video ..."

    def mean(self) -> Tensor:
        """(K,): softmax, averaged over all views that have scores."""
        return self.probabilities[self.scored].mean(dim=0)


def score_windows(
    path: str,
    artifact: Artifact,
    clips: ClipSpec,
    device: torch.device,
    *,
    step_seconds: float | None,
    num_crops: int,
    batch_size: int,
    decoder: Decoder = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Windows:
    """Score every window of a video. A batch of windows is decoded at a time, so its length costs no memory.

    Args:
        step_seconds: from the start of one window to that of the next; None lets them follow each other.
        batch_size: windows at a time.
        progress: told how many of how many windows were done, again and again.

    Raises:
        BadVideoError: a video that cannot be used, not even for one window.
        UserError: scores that are not finite, or not of the artifact's classes.
    """
    shown = without_credentials(path)
    transform = clips.transform(num_crops, channels_last=device.type == "cuda").to(device)
    with open_video(path, decoder) as video:
        sampling = clips.windows(video.frame_rate, step_seconds)
        try:
            indices = sampling.clips(video.seconds, Random(0), clips.short_video)
        except ValueError as error:
            raise BadVideoError(path, f"is too short: {error}") from None
        seconds = clip_seconds(video.seconds, indices)
        scores = VideoScores(len(indices), artifact.card.num_classes)
        reasons: list[str] = []
        for start in range(0, len(indices), batch_size):
            rows = torch.arange(start, min(start + batch_size, len(indices)))
            try:
                frames = torch.from_numpy(read_clips(video, indices[rows.numpy()], clips.short_side))
            except BadVideoError as error:
                reasons.append(error.reason)
                progress(int(rows[-1]) + 1, len(indices))
                continue
            size = frames.shape[2], frames.shape[3]
            if reason := too_small(*size, clips.crop_size):
                raise BadVideoError(path, reason)
            label = torch.full_like(rows, UNLABELLED)
            batch = Batch(frames[:, None], [size] * len(rows), label, rows, [])
            logits = outputs_of(artifact.network, batch, transform, device).flatten(1, 2)
            check_logits(logits, artifact.card.num_classes)
            if not scores.add(rows, label, logits).isfinite().all():
                scores.check_finite("artifact", lambda row: f"{shown} at {seconds[row][0]:.2f} s")
            progress(int(rows[-1]) + 1, len(indices))
    if not scores.scored.any():
        raise BadVideoError(path, reasons[0])
    return Windows(seconds, scores.probabilities, scores.scored, reasons)
