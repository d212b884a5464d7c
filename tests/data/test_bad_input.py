"""Whatever files real life brings: training goes on, and each bad one is named once with its reason."""

import csv
import os
import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from torch.utils.data import DataLoader

from videonorm.data import (
    BadVideo,
    BadVideos,
    Entries,
    Entry,
    Manifest,
    RandomClips,
    UniformClips,
    VideoDataset,
    collate,
)
from videonorm.data.decoding import BadVideoError, open_video


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for number in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, number * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def media_data(content: bytes) -> slice:
    return slice(content.find(b"mdat") + 4, content.find(b"moov") - 4)


# VP8 in IVF whose one picture says that it is of 16,383 x 16,383, and is 20 bytes long.
HUGE = b"DKIF\0\0\x20\0VP80\xff\x3f\xff\x3f" + struct.pack("<IIII", 25, 1, 1, 0)
HUGE += struct.pack("<IQ", 20, 0) + b"\x50\x01\0\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(10)

Makers = dict[str, tuple[Callable[[Path, bytes], object], str]]

# name -> how to make it of a good file's content, and why it cannot be used
BAD: Makers = {
    "missing.mp4": (lambda path, good: None, "cannot be found: No such file or directory"),
    "empty.mp4": (lambda path, good: path.write_bytes(b""), r"is empty \(0 bytes\)"),
    "text.mp4": (lambda path, good: path.write_text("no video"), "cannot be opened: Invalid data"),
    "folder.mp4": (lambda path, good: path.mkdir(), "is a directory"),
    "fifo.mp4": (lambda path, good: os.mkfifo(path), "is not a regular file"),
    "socket.mp4": (lambda path, good: bind(path), "is not a regular file"),
    "device.mp4": (lambda path, good: path.symlink_to("/dev/zero"), "is not a regular file"),
    "loop.mp4": (lambda path, good: path.symlink_to(path), "cannot be found: Too many levels"),
    "sound.mp4": (lambda path, good: write_sound(path), "has no video stream"),
    "truncated.mp4": (
        lambda path, good: path.write_bytes(good[: len(good) // 2]),
        "is truncated or was never",
    ),
    "header.mp4": (
        lambda path, good: path.write_bytes(good[:40] + os.urandom(5000)),
        "is truncated or was never finished|cannot be opened|cannot be read",
    ),
    "corrupt.mp4": (
        lambda path, good: path.write_bytes(zeroed(good)),
        "has no frames that can be decoded|is damaged",
    ),
    "codec.mp4": (
        lambda path, good: path.write_bytes(good.replace(b"avc1", b"zzzz")),
        "is in a codec that this FFmpeg cannot decode",
    ),
    "huge.ivf": (lambda path, good: path.write_bytes(HUGE), "claims pictures of 16383x16383 pixels"),
    "list.mp4": (
        lambda path, good: path.write_text("ffconcat version 1.0\nfile good.mp4\n"),
        "is a list of other files, not a video",
    ),
    "playlist.mp4": (
        lambda path, good: path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\ngood.mp4\n"),
        "is a list of other files|cannot be opened",
    ),
    'new\nline, comma "quote".mp4': (lambda path, good: path.write_bytes(b""), r"is empty \(0 bytes\)"),
    "carriage\rreturn.mp4": (lambda path, good: path.write_bytes(b""), r"is empty \(0 bytes\)"),
    os.fsdecode(b"not \xff\xfe utf-8.mp4"): (
        lambda path, good: path.write_bytes(b""),
        r"is empty \(0 bytes\)",
    ),
    "zero\0byte.mp4": (lambda path, good: None, "cannot be found: embedded null byte"),
}


def bind(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket must be short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def zeroed(good: bytes) -> bytes:
    content = bytearray(good)
    where = media_data(good)
    content[where] = bytes(where.stop - where.start)
    return bytes(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, videos) -> Path:
    """The files of ``BAD`` and one good one."""
    folder = tmp_path_factory.mktemp("bad")
    good = Path(videos("b_frames.mp4")).read_bytes()
    (folder / "good.mp4").write_bytes(good)
    for name, (make, _) in BAD.items():
        make(folder / name, good)
    return folder


def manifest_of(folder: Path, *names: str) -> Manifest:
    entries = [Entry(str(folder / name), number) for number, name in enumerate(names)]
    return Manifest(folder / "m.csv", Entries.of(entries), num_classes=len(names))


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_a_bad_video_is_named_with_its_reason(name, folder):
    dataset = VideoDataset(manifest_of(folder, name, "good.mp4"), UniformClips(4, 2), replace_bad=False)
    sample = dataset[0]
    assert (sample.frames, sample.label, [video.path for video in sample.bad]) == (
        None,
        0,
        [str(folder / name)],
    )
    assert re.match(BAD[name][1], sample.bad[0].reason)
    assert "\n" not in sample.bad[0].reason
    assert dataset[1].frames is not None and not dataset[1].bad


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_goes_on_and_each_is_listed_once(num_workers, folder, tmp_path):
    names = [*BAD, *(["good.mp4"] * 40)]
    dataset = VideoDataset(manifest_of(folder, *names), RandomClips(2, 1), short_side=16, replace_bad=True)
    loader = DataLoader(dataset, 10, num_workers=num_workers, collate_fn=collate)
    bad = BadVideos()
    for epoch in range(2):
        dataset.epoch = epoch
        for batch in loader:
            assert len(batch) == 10
            bad.add("train", batch.bad)
    assert bad.count("train") == len(BAD)
    bad.write(tmp_path / "bad_videos.csv")
    listed = rows_of(tmp_path / "bad_videos.csv")
    assert sorted(path for path, _, _ in listed) == sorted(str(folder / name) for name in BAD)
    assert all(re.match(BAD[os.path.basename(path)][1], reason) for path, reason, _ in listed)


def rows_of(path: Path) -> list[tuple[str, ...]]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "reason", "split"]
    return [tuple(row) for row in rows]


def test_the_list_can_be_read_again(tmp_path):
    names = [
        "a\nb.mp4",
        "a\rb.mp4",
        "a\r\nb.mp4",
        'a"b".mp4',
        "a, b.mp4",
        " a.mp4",
        "é.mp4",
        "\udcff\udcfe.mp4",
    ]
    rows = [(name, f"is bad: {name}", "train") for name in names]
    bad = BadVideos()
    bad.add("train", [BadVideo(path, reason) for path, reason, _ in rows])
    bad.write(tmp_path / "bad_videos.csv")
    assert rows_of(tmp_path / "bad_videos.csv") == sorted(rows)
    assert os.fsencode(rows[-1][0]) == b"\xff\xfe.mp4"


def test_good_files_with_names_that_ffmpeg_has_other_uses_for(folder, make_video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "other.mp4", count=3)
    good = (folder / "good.mp4").read_bytes()
    names = [
        "a:b.mp4",
        "http:a.mp4",
        "concat:other.mp4|other.mp4",
        "%03d.mp4",
        "-i.mp4",
        "a\nb.mp4",
        "data:,.mp4",
    ]
    for name in [*names, os.fsdecode(b"\xff.mp4")]:
        (tmp_path / name).write_bytes(good)
        for path in (name, str(tmp_path / name)):
            with open_video(path) as video:
                assert video.num_frames == 40
    for name in (
        "concat:other.mp4|other.mp4 ",
        "pipe:0",
        "http:/127.0.0.1/a.mp4",
        "subfile,,start,0,end,0,,:a",
    ):
        with pytest.raises(BadVideoError, match="cannot be found: No such file"):
            open_video(name)


def test_one_frame_is_a_video(make_video, tmp_path):
    make_video(tmp_path / "one.mp4", count=1)
    sample = VideoDataset(manifest_of(tmp_path, "one.mp4"), UniformClips(4, 2), replace_bad=False)[0]
    assert (tuple(sample.frames.shape), sample.bad) == ((1, 4, 64, 64, 3), [])


def test_a_file_that_may_not_be_read(folder, tmp_path, request):
    path = tmp_path / "secret.mp4"
    path.write_bytes((folder / "good.mp4").read_bytes())
    dataset = VideoDataset(manifest_of(tmp_path, "secret.mp4"), UniformClips(4, 2), replace_bad=False)
    assert dataset[0].frames is not None
    path.chmod(0)
    request.getfixturevalue("as_nobody")
    assert dataset[0].bad == [(str(path), "cannot be opened: Permission denied")]
