"""Clips of so many frames a second, from files of any rate."""

import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from videonorm.data import (
    Entries,
    Entry,
    Manifest,
    RandomClips,
    UniformClips,
    VideoDataset,
    VideoLoader,
    Workers,
    open_video,
)
from videonorm.data.decoding.packed import pack_video, write_shard
from videonorm.data.decoding.pyav import PyAVReader

NAMES = ["variable_rate.mp4", "late_start.mp4", "transport.ts", "vp9.webm", "b_frames.mp4"]


def manifest_of(*entries: Entry) -> Manifest:
    return Manifest(Path("manifest.csv"), Entries.of(entries), num_classes=1)


@pytest.fixture
def shown(number_of):
    """The numbers that the frames of a sample show: (V, T)."""
    return lambda sample: np.array([[number_of(frame) for frame in clip.numpy()] for clip in sample.frames])


@pytest.mark.parametrize("stretch", [(None, None), (0.3, 1.1)])
@pytest.mark.parametrize("packed", [False, True])
def test_a_clip_shows_the_frames_nearest_to_its_times(videos, shown, tmp_path, packed, stretch):
    for name in NAMES:
        path = videos(name)
        with open_video(path) as video:
            seconds = video.seconds
            if packed:
                path = f"{tmp_path / name}.safetensors/0"
                content = pack_video(video, 0, video.num_frames, short_side=64, quality=95)
                write_shard(Path(path).parent, [content], short_side=64)
        start, end = stretch[0] or 0.0, stretch[1] or np.inf
        of_stretch = np.flatnonzero((seconds > start - 1e-6) & (seconds < end - 1e-6))
        first, last = seconds[of_stretch[[0, -1]]]
        sampling = UniformClips(4, num_clips=3, frames_per_second=9.0)
        sample = VideoDataset(manifest_of(Entry(path, 0, *stretch)), sampling, replace_bad=False)[0]
        starts = first + np.linspace(0, last - first - 3 / 9, 3)
        wanted = starts[:, None] + np.arange(4) / 9 - 1e-6  # of two as near, the earlier
        nearest = np.abs(seconds[of_stretch] - wanted[..., None]).argmin(-1) + of_stretch[0]
        assert shown(sample).tolist() == nearest.tolist(), name


def test_only_the_frames_of_the_clips_are_read(videos, monkeypatch):
    asked = []
    read = PyAVReader.read
    monkeypatch.setattr(
        PyAVReader,
        "read",
        lambda self, indices, side: asked.append(list(indices)) or read(self, indices, side),
    )
    sampling = UniformClips(4, num_clips=2, frames_per_second=50)  # each frame twice, of 25 a second
    sample = VideoDataset(manifest_of(Entry(videos("b_frames.mp4"), 0)), sampling, replace_bad=False)[0]
    assert asked == [[0, 1, 37, 38, 39]] and sample.frames.shape[:2] == (2, 4)


def test_random_clips_follow_from_seed_epoch_and_index_in_workers_too(videos, shown):
    entries = [Entry(videos(name), 0) for name in NAMES]

    def epochs(num_workers):
        dataset = VideoDataset(
            manifest_of(*entries), RandomClips(3, num_clips=2, frames_per_second=7.5), replace_bad=True
        )
        with Workers(num_workers, 60) if num_workers else nullcontext() as workers:
            loader = VideoLoader(dataset, 2, workers)
            for dataset.epoch in range(2):
                yield from loader

    alone = list(epochs(0))
    for ours, theirs in zip(alone, epochs(2), strict=True):
        assert torch.equal(ours.frames, theirs.frames) and ours.lengths == theirs.lengths
    assert not torch.equal(alone[0].frames, alone[3].frames)


def test_a_cached_video_gives_the_same_clips(videos):
    manifest = manifest_of(Entry(videos("variable_rate.mp4"), 0))
    sampling = RandomClips(4, frames_per_second=10)
    plain, cached = (
        VideoDataset(manifest, sampling, replace_bad=False, cache_mib=mib, short_side=32) for mib in (0, 8)
    )
    for epoch in range(3):
        plain.epoch = cached.epoch = epoch
        assert torch.equal(plain[0].frames, cached[0].frames)


def test_short_videos(make_video, shown, tmp_path):
    entry = Entry(str(make_video(tmp_path / "short.mp4", count=5)), 0)  # 0.2 s

    def dataset(short_video: str) -> VideoDataset:
        sampling = UniformClips(4, frames_per_second=12.5)
        return VideoDataset(manifest_of(entry), sampling, replace_bad=False, short_video=short_video)

    for short_video, frames, action in (
        ("loop", [0, 2, 4, 1], "they loop"),
        ("repeat_last", [0, 2, 4, 4], "their last frame is repeated"),
    ):
        loader = VideoLoader(dataset(short_video), 1)
        with pytest.warns(UserWarning) as said:
            list(loader)
        assert [str(warning.message) for warning in said] == [
            "videos shorter than a clip of 4 frames at frames_per_second 12.5, which spans 0.24 s: 1 of 1 "
            f"read of manifest.csv, the shortest has 0.18 s; {action} (short_video)"
        ]
        assert shown(loader.dataset[0]).tolist() == [frames]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (batch,) = VideoLoader(dataset("error"), 1)
    assert [video.reason for video in batch.bad] == [
        "is too short: 4 frames at frames_per_second 12.5 do not fit into its 0.20 s"
    ]
