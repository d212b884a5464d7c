"""Small videos of all kinds, good and bad, for tests that hold every way of reading them to one verdict.

An entry makes a file at a path, by ``write_video`` of tests/data/conftest.py: 40 frames at 25 a second, a
keyframe every 12, if nothing else is said.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from odd_videos import ODD

Write = Callable[..., Path]
COUNT = 40
X264 = "bframes=3:b-adapt=0:scenecut=0"
OPEN = {"x264-params": f"{X264}:open-gop=1"}
HEVC = {
    "codec": "libx265",
    "preset": "ultrafast",
    "x265-params": "log-level=none:bframes=3:b-adapt=0:scenecut=0",
}
VP9 = {"codec": "libvpx-vp9", "b_frames": 0, "deadline": "realtime", "cpu-used": "8", "b": "1M"}
AV1 = {"codec": "libsvtav1", "b_frames": 0, "preset": "12", "crf": "30"}
MPEG4 = {"codec": "mpeg4", "b": "2M", "b_frames": 3}
MPEG2 = {"codec": "mpeg2video", "b": "4M", "b_frames": 3}
UNEVEN = np.cumsum(np.random.default_rng(3).integers(1, 9, COUNT)).tolist()


class Kind(NamedTuple):
    """How a file is made, and what is right of it."""

    make: Callable[[Path, Write], object]
    is_good: bool = True  # every frame can be decoded
    is_slow: bool = False  # like another


def plain(**options: Any) -> Callable[[Path, Write], object]:
    return lambda path, write: write(path, **options)


def changed(
    change: Callable[[Path, bytearray], bytes | bytearray], **options: Any
) -> Callable[[Path, Write], object]:
    def make(path: Path, write: Write) -> None:
        write(path, **options)
        path.write_bytes(change(path, bytearray(path.read_bytes())))

    return make


def cut(path: Path, content: bytearray, share: float = 0.5) -> bytes:
    return content[: int(share * len(content))]


def spoil(path: Path, content: bytearray, number: int, kept: int = 4) -> bytearray:
    """Zeros in a packet, behind the first bytes, which tell what it is."""
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    at = content.index(packets[number]) + kept
    content[at : at + len(packets[number]) - kept] = bytes(len(packets[number]) - kept)
    return content


def spoil_middle(path: Path, content: bytearray) -> bytearray:
    """Of a container that splits packets."""
    at = len(content) // 3
    content[at : at + 1500] = bytes(1500)
    return content


CENC = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "00" * 16}
FASTSTART = {"muxer": {"movflags": "faststart"}}
MATRIX: dict[str, Kind] = {
    "b_frames.mp4": Kind(plain()),
    "open_gop.mkv": Kind(plain(**OPEN)),
    "open_gop.ts": Kind(plain(**OPEN), is_slow=True),
    "intra_refresh.mp4": Kind(plain(b_frames=0, **{"x264-params": "intra-refresh=1:keyint=8"})),
    "one_gop.mp4": Kind(plain(gop=250), is_slow=True),
    "fragments.mp4": Kind(plain(muxer={"movflags": "frag_keyframe+empty_moov"}), is_slow=True),
    "variable_rate.mp4": Kind(plain(times=UNEVEN)),
    "variable_rate.webm": Kind(plain(times=UNEVEN, **VP9), is_slow=True),
    "late_start.mkv": Kind(plain(times=list(range(250, 250 + COUNT))), is_slow=True),
    "edit_list.mp4": Kind(plain(times=list(range(-7, COUNT - 7)))),
    "turned.mp4": Kind(plain(width=80, rotation=90)),
    "mirrored.mp4": Kind(plain(width=80, matrix=(-1, 0, 0, 1))),
    "flipped.mkv": Kind(plain(width=80, matrix=(1, 0, 0, -1)), is_slow=True),
    "transposed.mkv": Kind(plain(width=80, matrix=(0, 1, 1, 0))),
    "odd_size.mp4": Kind(plain(height=65, width=77, pix_fmt="yuv444p"), is_slow=True),
    "ten_bit.mkv": Kind(plain(pix_fmt="yuv420p10le"), is_slow=True),
    "hevc.mp4": Kind(plain(**HEVC)),
    "hevc.ts": Kind(plain(**HEVC), is_slow=True),
    "vp9.webm": Kind(plain(**VP9), is_slow=True),
    "av1.mp4": Kind(plain(**AV1), is_slow=True),
    "mpeg4.avi": Kind(plain(**MPEG4)),
    "mpeg2.mpg": Kind(plain(**MPEG2), is_slow=True),
    "mpeg2.ts": Kind(plain(**MPEG2), is_slow=True),
    "cut.mp4": Kind(changed(cut, **FASTSTART), is_good=False),
    "cut.mkv": Kind(changed(cut), is_good=False, is_slow=True),
    "cut.avi": Kind(changed(cut, **MPEG4), is_good=False, is_slow=True),
    "cut.ts": Kind(changed(partial(cut, share=0.7))),  # nothing says that there was more, but half a packet
    "no_moov.mp4": Kind(changed(cut), is_good=False),
    "encrypted.mp4": Kind(plain(muxer=CENC), is_good=False),
    "empty.mp4": Kind(changed(partial(cut, share=0.0)), is_good=False, is_slow=True),
    # A packet of which others are made up, at the end of one group and in the next; one of which none is.
    "spoilt_14.mp4": Kind(changed(partial(spoil, number=14)), is_good=False),
    "spoilt_key.mp4": Kind(changed(partial(spoil, number=24)), is_good=False, is_slow=True),
    "spoilt_leading.mkv": Kind(changed(partial(spoil, number=26), **OPEN), is_good=False),
    "spoilt_disposable.mp4": Kind(
        changed(partial(spoil, number=27), **{"x264-params": f"{X264}:b-pyramid=none"}), is_good=False
    ),
    "spoilt_hevc.mp4": Kind(changed(partial(spoil, number=14), **HEVC), is_good=False, is_slow=True),
    "spoilt.ts": Kind(changed(spoil_middle), is_good=False, is_slow=True),
}

# Of the kinds in which a picture is easily taken for another, one each of the quick ones.
QUICK = ("by_dts.mp4", "b.mxf", "b.asf", "fields.mp4", "radl.mkv", "vvc.mkv", "sorenson.flv")
MATRIX |= {name: Kind(make, is_slow=name not in QUICK) for name, make in ODD.items()}
