"""Mutated files of many kinds through the dataset and a loader: no crash, no hang, the unreadable are named.

100 files with two workers in the suite; ``VIDEONORM_SLOW_TESTS=1 pytest tests/data/test_fuzz.py`` takes 1,000
with four.
"""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from videonorm.data import Entries, Manifest, UniformClips, VideoDataset, VideoLoader, Workers
from videonorm.data.decoding import available_decoders

NAMES = [
    *("open_gop.mp4", "hevc.mp4", "vp9.webm", "av1.mp4", "mpeg4.avi"),
    *("fields.ts", "open_fields.mp4", "by_dts.mp4", "radl.mkv", "vvc.ts", "packed.avi", "hidden_vp8.mkv"),
    *("b.asf", "b.mxf", "b.flv", "motion_jpeg.avi", "hevc_ten_bit.ts"),
]
ON_CPU = {"pyav", "torchcodec", "decord"}  # the workers fork
DECODERS = [name for name, problem in available_decoders().items() if name in ON_CPU and problem is None]
SLOW = pytest.mark.skipif(
    not os.environ.get("VIDEONORM_SLOW_TESTS"), reason="VIDEONORM_SLOW_TESTS is not set"
)


def cut(content: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return content[: rng.integers(len(content))]


def flip_bits(content: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    content = content.copy()
    bits = rng.integers(8 * len(content), size=int(10 ** rng.uniform(0, 3)))
    np.bitwise_xor.at(content, bits // 8, (1 << bits % 8).astype(np.uint8))
    return content


def splice(content: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put a piece from elsewhere in the file over another, between others, or in the place of the rest."""
    start, stop, at = rng.integers(len(content) + 1, size=3)
    piece = content[min(start, stop) : max(start, stop)][:20_000]
    behind = rng.choice([at, at + len(piece), len(content)])
    return np.concatenate([content[:at], piece, content[behind:]])


MUTATIONS: list[Callable[[np.ndarray, np.random.Generator], np.ndarray]] = [cut, flip_bits, splice]


def can_be_decoded(path: str) -> bool:
    """Whether FFmpeg gets a single picture out of a file."""
    errors = (av.FFmpegError, ValueError, MemoryError, IndexError)
    try:
        with av.open(path, metadata_errors="ignore") as container:
            for packet in container.demux(container.streams.best("video")):
                try:
                    if packet.decode():
                        return True
                except errors:
                    packet.stream.codec_context.flush_buffers()  # or it may take no further packets
    except errors:
        pass
    return False


@pytest.mark.filterwarnings("ignore:.* is read by pyav")
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("count, num_workers", [(100, 2), pytest.param(1000, 4, marks=SLOW)])
def test_mutated_files_are_read_or_named(count, num_workers, decoder, videos, tmp_path):
    rng = np.random.default_rng(count)
    originals = [np.fromfile(videos(name), np.uint8) for name in NAMES]
    paths = [videos(name) for name in NAMES]
    for i in range(count):
        path = tmp_path / f"{i}{Path(NAMES[i % len(NAMES)]).suffix}"
        MUTATIONS[i % len(MUTATIONS)](originals[i % len(NAMES)], rng).tofile(path)
        paths.append(str(path))

    manifest = Manifest(Path("manifest.csv"), Entries(paths, [0] * len(paths)), num_classes=1)
    clips = UniformClips(3, 4, num_clips=2)
    dataset = VideoDataset(manifest, clips, short_side=32, decoder=decoder, replace_bad=False)
    read: list[str] = []
    named: dict[str, str] = {}
    with Workers(num_workers, time_limit_seconds=20) as workers:
        for batch in VideoLoader(dataset, 10, workers):
            assert batch.frames.shape[:3] == (len(batch), 2, 3) or not len(batch)
            read += [paths[index] for index in batch.index.tolist()]
            named |= dict(batch.bad)

    assert sorted([*read, *named]) == sorted(paths)  # each once: read or named
    assert all(named.values())
    survived = [reason for reason in named.values() if "crashed" in reason or "took longer" in reason]
    assert not survived  # by the loader, but the decoder should not do so
    assert set(paths[: len(NAMES)]) <= set(read)  # a bad file does no harm to a good one
    assert not [path for path in read if not can_be_decoded(path)]
    assert len(read) > count / 10 and len(named) > count / 10
