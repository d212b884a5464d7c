"""A video file is the same to all that read it: the readers, the loader, verify, transcode and pack.

One verdict, good or bad, and one set of frames, of the whole and of a stretch; tests/matrix_videos.py has the
files.
"""

import warnings
from pathlib import Path

import encode
import numpy as np
import packing
import pytest
import verify
from matrix_videos import MATRIX

from videonorm.data import (
    BadVideoError,
    Entries,
    Entry,
    Manifest,
    UniformClips,
    VideoDataset,
    VideoLoader,
    Workers,
    open_video,
)
from videonorm.data.decoding import available_decoders
from videonorm.data.decoding.index_store import packet_index
from videonorm.data.decoding.reader import frames_between

SIDE = 48
DECODERS = [name for name, problem in available_decoders().items() if problem is None]
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * kind.is_slow) for name, kind in MATRIX.items()]
WHOLE = (None, None)


@pytest.fixture(scope="module")
def path_of(tmp_path_factory, make_video):
    folder = tmp_path_factory.mktemp("matrix")

    def make(name: str) -> str:
        if not (folder / name).exists():
            MATRIX[name].make(folder / name, make_video)
        return str(folder / name)

    return make


def stretch_of(path):
    """In seconds: frames 25 to 34 of 40, from within a group, past the middle."""
    try:
        seconds = packet_index(path).seconds
    except BadVideoError:
        return 1.0, 1.4
    return seconds[len(seconds) * 5 // 8], seconds[len(seconds) * 7 // 8]


def verdict(read, *arguments):
    """What it returns, or ``None`` for a file that is bad."""
    try:
        return read(*arguments)
    except BadVideoError:
        return None


def by_reader(path, stretch, decoder="pyav"):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* is read by pyav")
        with open_video(path, decoder) as video:
            return video.read(range(*frames_between(path, video.seconds, *stretch)), SIDE)


def dataset_of(paths, stretch, count):
    bounds = dict(zip(("start_seconds", "end_seconds"), stretch, strict=True))
    entries = Entries.of([Entry(path, 0, **bounds) for path in paths])
    manifest = Manifest(Path("m.csv"), entries, num_classes=1)
    return VideoDataset(manifest, UniformClips(count, 1), short_side=SIDE, replace_bad=False)


def by_dataset(path, stretch, count):
    sample = dataset_of([path], stretch, count)[0]
    return None if sample.bad else sample.frames[0].numpy()


def by_transcode(path, stretch, folder):
    target = folder / "new.mp4"
    encode.transcode(
        encode.Job(
            path, str(target), folder, *stretch, encode.Settings(SIDE, 12, 8, "ultrafast", None, False, None)
        )
    )
    return by_reader(str(target), WHOLE)


def by_pack(path, stretch, folder):
    packing.pack(packing.Job(path, folder / "s.safetensors", *stretch, packing.Settings(SIDE, 95, 1)))
    return by_reader(f"{folder / 's.safetensors'}/0", WHOLE)


def verified(path, stretch, full):
    verify.verify(verify.Check(path, *stretch, "auto", full))
    return True


def assert_same_pictures(frames, expected):
    """Each is nearest to its own, and near: whoever encoded or decoded it."""
    assert len(frames) == len(expected)
    assert np.abs(np.subtract(frames.shape, expected.shape)).max() <= 1  # transcode has even sides
    near = 16 if frames.shape == expected.shape else 30  # chroma at half the resolution, 8 bit
    height, width = np.minimum(frames.shape, expected.shape)[1:3]
    frames, expected = (of[:, :height:3, :width:3].astype(np.int16) for of in (frames, expected))
    for number, frame in enumerate(frames):
        distances = np.abs(expected - frame).mean((1, 2, 3))
        assert distances.argmin() == number and distances[number] < near


@pytest.mark.parametrize("of", ["whole", "stretch"])
@pytest.mark.parametrize("name", NAMES)
def test_one_verdict_and_one_set_of_frames(name, of, path_of, tmp_path):
    path = path_of(name)
    stretch = WHOLE if of == "whole" else stretch_of(path)
    expected = verdict(by_reader, path, stretch)
    assert verdict(verified, path, stretch, True) == (None if expected is None else True)
    made = {
        "dataset": by_dataset(path, stretch, 40 if expected is None else len(expected)),
        "transcode": verdict(by_transcode, path, stretch, tmp_path),
        "pack": verdict(by_pack, path, stretch, tmp_path),
    }
    assert [way for way, frames in made.items() if (frames is None) != (expected is None)] == []
    if expected is None:
        assert not MATRIX[name].is_good and list(tmp_path.iterdir()) == []
        return
    assert verdict(verified, path, stretch, False)
    np.testing.assert_array_equal(made["dataset"], expected)
    for way in ("transcode", "pack"):
        assert_same_pictures(made[way], expected)
    for decoder in DECODERS if MATRIX[name].is_good else []:  # others see no damage
        assert_same_pictures(by_reader(path, stretch, decoder), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_verdict_is_right_and_the_frames_are_those_of_a_plain_decode(name, path_of, decode_in_order):
    path = path_of(name)
    frames = verdict(lambda: by_reader(path, WHOLE))
    assert (frames is not None) == MATRIX[name].is_good
    if frames is not None:
        with open_video(path) as video:
            np.testing.assert_array_equal(video.read(range(video.num_frames)), decode_in_order(path))


def test_the_loader_has_the_frames_of_the_dataset(path_of):
    dataset = dataset_of([path_of(name) for name, kind in MATRIX.items() if not kind.is_slow], WHOLE, 4)
    with Workers(1, time_limit_seconds=60) as workers:
        batches = list(VideoLoader(dataset, 1, workers))
    assert [batch.index.tolist() for batch in batches] == [
        [] if dataset[index].bad else [index] for index in range(len(dataset))
    ]
    for batch in batches:
        for index, frames in zip(batch.index.tolist(), batch.frames, strict=True):
            np.testing.assert_array_equal(frames, dataset[index].frames)
