"""Where the new file of a row lies: no two videos have the same, and order and repetition move none."""

import os
from itertools import permutations
from pathlib import Path

import encode
import pytest
from helpers import frames_of
from rows import Row
from targets import targets_of

from videonorm.data import BadVideoError


def row(path, start=None, end=None, base="/s"):
    return Row(path, start, end, {}, "train", base)


def names(*rows):
    found = targets_of(rows, Path("/o"))
    assert len(set(found)) == len({(os.path.normpath(of.path), *of[1:3]) for of in rows})
    for order in permutations(range(len(rows))):
        assert targets_of([rows[i] for i in order], Path("/o")) == [found[i] for i in order]
    return [os.path.relpath(target, "/o") for target in found]


def test_the_suffix_is_kept_only_where_it_must_be():
    assert names(row("/s/a.mp4"), row("/s/b.avi"), row("/t/c.mkv")) == ["a.mp4", "b.mp4", "t/c.mp4"]
    assert names(row("/s/a.mp4"), row("/s/a.avi")) == ["a.mp4.mp4", "a.avi.mp4"]
    assert names(row("/s/a.mp4"), row("/s/a.avi"), row("/s/a.avi.mkv")) == [
        *("a.mp4.mp4", "a.avi.mp4", "a.avi.mkv.mp4"),
    ]
    assert names(row("/s/a.mp4"), row("/s/x/../a.mp4"), row("/s/a.mp4", 1.0, 2.5)) == [
        *("a.mp4", "a.mp4", "a_1_2.5.mp4"),
    ]


def test_a_digest_tells_apart_what_a_suffix_does_not():
    one, other = names(row("/s/a.mp4"), row("/t/a.mp4", base="/t"))
    assert one.startswith("a.mp4-") and other.startswith("a.mp4-")
    near = names(row("/s/a.mp4", 1000.001, 1002.0), row("/s/a.mp4", 1000.0012, 1002.0))
    assert all(name.startswith("a_1000_1002.mp4-") for name in near)
    broken = names(row("/s/a\n.mp4"), row("/s/a_.mp4"), row("/s/a\r.mp4"))
    assert not any("\n" in name or "\r" in name for name in broken)
    names(row("/s/a.mp4"), row("/t/a.mp4", base="/t"), row(f"/s/{one.removesuffix('.mp4')}.avi"))


def test_the_file_of_another_list_is_not_replaced(tmp_path, make_video):
    first = make_video(tmp_path / "a.avi", 3, codec="mpeg4")
    second = make_video(tmp_path / "a.mkv", 4)
    target = tmp_path / "out/a.mp4"
    settings = encode.Settings(256, 12, 23.0, "ultrafast", None, False, None)

    def transcode(source, settings=settings):
        return encode.transcode(encode.Job(str(source), str(target), tmp_path, None, None, settings))

    assert not transcode(first).kept and transcode(first).kept
    with pytest.raises(BadVideoError, match=r"a\.mkv would replace .*out/a\.mp4, which was made of .*a\.avi"):
        transcode(second)
    assert len(frames_of(target)) == 3
    moved = first.rename(tmp_path / "moved.avi")
    assert transcode(moved).kept
    assert not transcode(moved, settings._replace(crf=30.0)).kept  # its own, with other settings
    make_video(moved, 5, codec="mpeg4")
    assert not transcode(moved).kept and len(frames_of(target)) == 5
