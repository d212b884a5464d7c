"""Scores of videos over several views: num_clips x num_crops of each, softmax averaged over them.

All views of a video come from one decode, by the sampling and the transform that `videonorm test` uses.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from videonorm.data import BadVideo, BadVideos, Decoder, Manifest, VideoLoader, decoding_workers
from videonorm.data.clip_spec import ClipSpec
from videonorm.data.decoding.location import without_credentials
from videonorm.evaluation.execution import Execution
from videonorm.evaluation.outputs import check_logits, outputs_of
from videonorm.evaluation.parts import Parts


def score_videos(
    network: Execution,
    manifest: Manifest,
    clips: ClipSpec,
    device: torch.device,
    parts: Parts,
    *,
    num_clips: int,
    num_crops: int,
    channels_last: bool = False,
    decoder: Decoder = "auto",
    num_workers: int | None = None,
    time_limit_seconds: float = 60.0,
    max_bad_fraction: float = 0.05,
    progress: Callable[[int], None] = lambda videos: None,
) -> None:
    """Score the videos that are left of this process's parts; those that cannot be used have no scores.

    The network sees as many clips at a time as ``parts.batch_size`` says, however many views a video has.
    Where it is run otherwise than plainly, the first process notes the deviations on its first batch.

    Args:
        network: on `device`.
        clips: how clips are taken and prepared, the artifact's `card.input` or a variation of it.
        channels_last: give the network clips in that memory format.
        num_workers: decoding processes; None takes up to 8 on CUDA, and none on the CPU (the network's).
        time_limit_seconds: what reading one video may take, where there are such processes, before it is bad.
        max_bad_fraction: share of the videos that may be bad before it is an error.
        progress: told how many videos were done, again and again.

    Raises:
        UserError: more bad videos than allowed, or scores that are not finite.
    """
    on_cuda = device.type == "cuda"
    dataset = clips.dataset(manifest, num_clips, decoder=decoder)
    transform = clips.transform(num_crops, channels_last=channels_last).to(device)
    scores, counted = parts.scores, BadVideos()

    def name(row: int) -> str:
        return without_credentials(manifest.entries[row].path)

    def run(views: Tensor) -> Tensor:
        if network.ways and parts.rank == 0 and parts.notes is None:
            parts.note([found.record() for found in network.deviations(views)])
        return network(views)

    todo = iter(parts.todo)
    part, left = -1, 0  # the part in work, and how many of its videos are to come
    bad: list[BadVideo] = []  # of that part
    with decoding_workers(num_workers, decoder, time_limit_seconds, device) or nullcontext() as workers:
        loader = VideoLoader(dataset, parts.batch_size, workers, pin_for=device if on_cuda else None)
        rows = [row for part in parts.todo for row in parts.rows(part)]
        loader.batch_sampler = BatchSampler(rows, parts.batch_size, drop_last=False)
        for batch in loader:
            if not left:
                part, bad = next(todo), []
                left = len(parts.rows(part))
            if len(batch):
                logits = outputs_of(run, batch, transform, device).flatten(1, 2)
                check_logits(logits, scores.probabilities.shape[1])
                if not scores.add(batch.index, batch.label, logits).isfinite().all():
                    ways = " + ".join(network.ways) or "fp32"
                    scores.check_finite(f"artifact in {ways}", name)
            bad += batch.bad
            if counted.add("test", batch.bad):
                counted.check("test", len(dataset), max_bad_fraction)
            left -= len(batch) + len(batch.bad)
            if not left:
                parts.finish(part, bad)
            progress(len(batch) + len(batch.bad))
