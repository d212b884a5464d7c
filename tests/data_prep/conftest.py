"""The scripts as modules, the numbered videos of tests/data, a small data set to make manifests of."""

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import av
import numpy as np
import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent / "data_prep"), str(Path(__file__).parent)]  # scripts; helpers.py

_spec = importlib.util.spec_from_file_location("numbered_videos", TESTS / "data/conftest.py")
_numbered = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_numbered)


@pytest.fixture(scope="session")
def make_video():
    return _numbered.write_video


@pytest.fixture(scope="session")
def kinds():
    """Name -> how ``make_video`` makes it."""
    return _numbered.VIDEOS


@pytest.fixture(scope="session")
def decode_in_order():
    return _numbered.plain_decode


@pytest.fixture(scope="session")
def number_of():
    return _numbered.shown_number


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> dict[str, Path]:
    """A video for each suffix: 20 frames of 32 x 24 at 10 a second."""
    folder = tmp_path_factory.mktemp("clip")
    clips = {}
    for suffix, codec in {".mp4": "libx264", ".avi": "mpeg4", ".webm": "libvpx"}.items():
        clips[suffix] = folder / f"clip{suffix}"
        options = {"movflags": "faststart"} if suffix == ".mp4" else {}
        with av.open(str(clips[suffix]), "w", options=options) as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
            for number in range(20):
                picture = np.full((24, 32, 3), 12 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
    return clips


@pytest.fixture
def put(clip, tmp_path):
    """``put("videos/a.mp4", ...)`` makes videos below ``tmp_path``."""

    def make(*names: str) -> None:
        for name in names:
            path = os.path.join(tmp_path, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            shutil.copy(clip[os.path.splitext(name)[1].lower()], path)

    return make


@pytest.fixture
def write(tmp_path):
    def make(name: str, content: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, (str, bytes)):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs make_manifest.py in ``tmp_path`` with --videos videos --out out; returns its exit code."""
    import make_manifest

    monkeypatch.chdir(tmp_path)

    def main(layout: str, *options: str, probe: bool = False) -> int:
        speed = [] if probe else ["--no_probe"]
        # An option given again stands in place of the first.
        usual = ["--videos", "videos", "--out", "out", "--num_workers", "2"]
        return make_manifest.main([layout, *usual, *speed, *options])

    return main


@pytest.fixture
def folder(tmp_path, make_video):
    """Three videos of 20 frames of 96 x 64 in two classes."""
    for name in ("jump/a b.mp4", "jump/c.mp4", "walk/d.mp4"):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(tmp_path / "source" / name, 20, height=64, width=96)
    return tmp_path / "source"
