"""One video: what a look into it tells, which of its frames are wanted."""

import pack
import pytest
from helpers import table
from video import Facts, clip_seconds, probe

from videonorm.data import BadVideoError


def test_what_is_not_known_is_an_empty_cell():
    assert list(Facts(fps=29.97003, frames=3).cells().values()) == ["", "29.97", "3", "", "", ""]


def test_a_packed_video_is_probed_like_its_source(folder, tmp_path):
    source = str(folder / "walk/d.mp4")
    assert probe(source) == Facts(0.8, 25.0, 20, 96, 64, "h264")
    assert pack.main([str(folder), "--out", str(tmp_path / "out"), "--num_workers", "1"]) == 0
    path = str(tmp_path / "out" / table(tmp_path / "out/manifest.csv")[2]["path"])
    assert probe(path) == Facts(0.8, 25.0, 20, 96, 64, "mjpeg")
    assert clip_seconds(path, 0.2, 0.6, short_side=48) > 0


def test_no_video(tmp_path):
    (tmp_path / "v.mp4").write_text("text")
    with pytest.raises(BadVideoError, match="cannot be opened"):
        probe(str(tmp_path / "v.mp4"))
