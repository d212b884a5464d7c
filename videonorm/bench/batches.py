"""The batches of the contenders of `videonorm bench loader`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader, RandomSampler

from videonorm.bench import peers
from videonorm.bench.records import Row
from videonorm.data import Manifest, RandomClips, TrainTransform, VideoDataset, VideoLoader, Workers

ENDLESS = 10**9  # clips of an epoch, which no window reaches the end of


@contextmanager
def batches(manifest: Manifest, case: Row) -> Iterator[Iterator[Any]]:
    """The batches of a contender without an end; at the end of the context its workers have ended."""
    who, _, kind = case["loader"].removesuffix("_cpu").partition("_")
    if who == "ours":
        with Workers(case["num_workers"], time_limit_seconds=60) as workers:
            yield _ours(manifest, "auto" if kind == "packed" else kind, workers, case)
    elif who == "pytorchvideo":
        clips = peers.pytorchvideo_clips(manifest, kind, case)
        yield iter(DataLoader(clips, case["batch_size"], num_workers=case["num_workers"]))
    else:
        datasets = {"limit": peers.LimitDataset, "torchcodec": peers.TorchcodecDataset}
        dataset = datasets[who](manifest, case)
        sampler = _endless(dataset)
        yield iter(DataLoader(dataset, case["batch_size"], sampler=sampler, num_workers=case["num_workers"]))


def _ours(manifest: Manifest, decoder: Any, workers: Workers, case: Row) -> Iterator[Any]:
    clips = RandomClips(case["num_frames"], case["frame_stride"], case["clips_per_video"])
    dataset = VideoDataset(manifest, clips, decoder=decoder, short_side=case["short_side"], replace_bad=False)
    num_videos = case["batch_size"] // case["clips_per_video"]
    loader = VideoLoader(dataset, num_videos, workers, sampler=_endless(dataset))
    transform = TrainTransform(case["crop_size"])
    on_cpu = case["loader"].endswith("_cpu")
    return (transform(batch)[0] if on_cpu else batch for batch in loader)


def _endless(dataset: Any) -> RandomSampler:
    """Epoch after epoch, each in an order of its own."""
    return RandomSampler(dataset, num_samples=ENDLESS)
