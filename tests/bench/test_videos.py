"""The videos of the loading benchmarks are what their names say."""

import os
import subprocess
import sys
from pathlib import Path

import av
import pytest

from videonorm.bench.videos import ENCODERS, render
from videonorm.data import open_video, read_manifest
from videonorm.data.decoding.index_store import packet_index

ROOT = Path(__file__).parents[2]


def keyframes(path):
    return [int(i) for i in packet_index(path).packet_is_key.nonzero()[0]]


def test_manifests_list_the_videos_under_many_names(tiny):
    for kind in ENCODERS:
        paths = [entry.path for entry in read_manifest(tiny.manifest(kind)).entries]
        assert len(set(paths)) == 4
        assert len({os.path.realpath(path) for path in paths}) == 2
        for path in paths:
            with open_video(path) as video:
                assert video.read([49]).shape == (1, 48, 128, 3) and video.num_frames == 50


def test_keyframes(tiny):
    raw, transcoded = (read_manifest(tiny.manifest(kind)).entries[0].path for kind in ENCODERS)
    assert keyframes(raw) == [0]
    assert len(keyframes(transcoded)) == 5


def test_packed_frames(tiny):
    entries = read_manifest(tiny.manifest("packed_32")).entries
    with open_video(entries[1].path) as video:
        assert video.num_frames == 50 and video.read([0, 49]).shape == (2, 32, 85, 3)


def test_what_is_there_is_kept(tiny):
    before = {path: path.stat().st_mtime_ns for path in tiny.folder.glob("*.*4*")}
    tiny.prepare(packed=[32])
    assert {path: path.stat().st_mtime_ns for path in tiny.folder.glob("*.*4*")} == before


def test_pictures_move_and_differ_between_videos():
    first, second = (list(render(seed, 3, 24, 32)) for seed in (0, 1))
    assert first[0].shape == (24, 32, 3)
    assert not first[0].equal(first[2]) and not first[0].equal(second[0])


@pytest.mark.slow
def test_transcoded_is_what_transcode_py_makes(tiny, tmp_path):
    raw, ours = (read_manifest(tiny.manifest(kind)).entries[0].path for kind in ENCODERS)
    (tmp_path / "raw.csv").write_text(f"path,label\n{raw},0\n")
    script = [sys.executable, str(ROOT / "data_prep" / "transcode.py")]
    subprocess.run(
        [*script, tmp_path / "raw.csv", "--out", tmp_path / "out", "--num_workers", "1"], check=True
    )
    theirs = read_manifest(tmp_path / "out" / "raw.csv").entries[0].path
    packets = []
    for path in (ours, theirs):
        with av.open(path) as container:
            packets.append([(packet.size, packet.is_keyframe) for packet in container.demux(video=0)])
    assert [key for _, key in packets[0]] == [key for _, key in packets[1]]
    bytes_ours, bytes_theirs = (sum(size for size, _ in found) for found in packets)
    assert bytes_ours == pytest.approx(bytes_theirs, rel=0.02)
