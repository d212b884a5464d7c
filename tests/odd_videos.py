"""Videos of the kinds in which a picture is easily taken for another: each by a function of its name."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import bitstreams
from av.bitstream import BitStreamFilterContext

WriteVideo = Callable[..., Path]
Make = Callable[[Path, WriteVideo], object]

X264: dict[str, Any] = {"x264-params": "bframes=3:b-adapt=0:scenecut=0:keyint=12:min-keyint=12"}
X265: dict[str, Any] = {"codec": "libx265", "preset": "ultrafast"}
X265_PARAMS = "log-level=none:bframes=4:b-adapt=0:scenecut=0:keyint=12:min-keyint=12"
RADL = {**X265, "x265-params": f"{X265_PARAMS}:open-gop=0:radl=2"}
CRA = {**X265, "x265-params": f"{X265_PARAMS}:open-gop=1"}
MPEG2: dict[str, Any] = {"codec": "mpeg2video", "b": "4M", "b_frames": 2}
MPEG4: dict[str, Any] = {"codec": "mpeg4", "b": "2M", "b_frames": 1}
VP8: dict[str, Any] = {"codec": "libvpx", "b_frames": 0, "deadline": "realtime", "cpu-used": "8", "b": "1M"}
VP9: dict[str, Any] = {
    **{"codec": "libvpx-vp9", "b_frames": 0, "cpu-used": "8", "b": "200k", "auto-alt-ref": "1"},
    "lag-in-frames": "16",
}


def encode(**options: Any) -> Make:
    return lambda path, write_video: write_video(path, **options)


def bits(codec: str, coded: list[bitstreams.Coded], **how: bool) -> Make:
    return lambda path, _: bitstreams.write(path, codec, coded, **how)


def remux(change: Callable[[list[av.Packet]], Iterable[av.Packet]], **options: Any) -> Make:
    """Encode into Matroska, change the packets, and put them into another container."""

    def make(path: Path, write_video: WriteVideo) -> None:
        source_path = write_video(path.with_name(f"{path.name}.source.mkv"), **options)
        with av.open(str(source_path)) as source, av.open(str(path), "w") as output:
            stream = output.add_stream_from_template(source.streams.video[0])
            stream.time_base = Fraction(1, 25)  # AVI has a frame for each unit
            for packet in change([packet for packet in source.demux(video=0) if packet.size]):
                packet.stream = stream
                output.mux(packet)
        source_path.unlink()

    return make


def by_dts(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """With the time of decoding for that of display, as of a raw stream."""
    for place, packet in enumerate(packets):
        packet.pts = packet.dts = place * 40
        yield packet


def from_second_key(packets: list[av.Packet]) -> Iterable[av.Packet]:
    second = [place for place, packet in enumerate(packets) if packet.is_keyframe][1]
    return packets[second:]


def closed(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """From the second keyframe of MPEG-2, which says that what is shown before it needs nothing before it."""
    first, *others = from_second_key(packets)
    content = bytearray(bytes(first))
    content[content.find(b"\0\0\1\xb8") + 7] |= 0x40
    return [like(first, bytes(content)), *others]


def like(packet: av.Packet, content: bytes) -> av.Packet:
    """With another content."""
    other = av.Packet(content)
    other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
    other.is_keyframe = packet.is_keyframe
    return other


def hidden_apart(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """VP9's pictures that are only referred to, in packets of their own, with times of their own."""
    split = BitStreamFilterContext("vp9_superframe_split", packets[0].stream)
    for packet in packets:
        pts = packet.pts
        parts = split.filter(packet)
        for part in parts:
            part.pts = part.dts = pts - (len(parts) - 1 if part is not parts[-1] else 0)
        yield from parts


def one_hidden(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """VP8's sixth picture is not to be shown."""
    content = bytearray(bytes(packets[5]))
    content[0] &= ~0x10
    return [*packets[:5], like(packets[5], bytes(content)), *packets[6:]]


def with_uncoded(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """MPEG-4 that says after every fifth picture that nothing has changed, for which no picture comes."""
    uncoded = b"\0\0\1\xb6" + bytes([0b01010000, 0b01011111])
    place = 0
    for number, packet in enumerate(packets):
        contents = [bytes(packet), uncoded] if number % 5 == 2 else [bytes(packet)]
        for content in contents:
            part = like(packet, content)
            part.pts = part.dts = place * 40
            part.is_keyframe &= content != uncoded
            place += 1
            yield part


def packed(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """MPEG-4 as DivX puts it into AVI: a P- and a B-picture in a packet, and next one that holds none."""
    said = b"\0\0\1\xb2DivX503b1393p"
    contents = [bytes(packet) for packet in packets]
    kinds = [content[content.find(b"\0\0\1\xb6") + 4] >> 6 for content in contents]  # I, P, B
    place = 0
    merged: list[tuple[bytes, bool]] = []
    while place < len(contents):
        if kinds[place + 1 : place + 2] == [2] and kinds[place] == 1:
            none = (
                b"\0\0\1\xb6" + contents[place][contents[place].find(b"\0\0\1\xb6") + 4 :][:1] + b"\x53\x7f"
            )
            merged += [(contents[place] + contents[place + 1], False), (none, False)]
            place += 2
        else:
            start = contents[place].find(b"\0\0\1\xb6")
            merged.append((contents[place][:start] + said + contents[place][start:], kinds[place] == 0))
            place += 1
    for number, (content, is_key) in enumerate(merged):
        packet = like(packets[0], content)
        packet.pts = packet.dts = number * 40
        packet.is_keyframe = is_key
        yield packet


ODD: dict[str, Make] = {
    # B-pictures, and timestamps that are those of decoding, or none
    "b.asf": encode(**X264),
    "b.wmv": encode(**X264),
    "b.mxf": encode(**X264),
    "b.flv": encode(**X264),
    "b.mpg": encode(**X264),
    "b.h264": encode(**X264),
    "b.nut": encode(**X264),
    "b.mov": encode(**X264),
    "by_dts.mp4": remux(by_dts, **X264),
    "by_dts.mkv": remux(by_dts, **X264),
    "by_dts.ts": remux(by_dts, **X264),
    "by_dts.flv": remux(by_dts, **X264),
    "by_dts_no_b.mkv": remux(by_dts, **{"x264-params": "bframes=0"}),
    "by_dts_no_b.asf": remux(by_dts, **{"x264-params": "bframes=0"}),
    "by_dts_hevc.mp4": remux(by_dts, **RADL),
    "by_dts_hevc.mkv": remux(by_dts, **CRA),
    "by_dts_hevc.ts": remux(by_dts, **CRA),
    "by_dts_hevc_no_b.mp4": remux(by_dts, **X265, **{"x265-params": "log-level=none:bframes=0"}),
    "by_dts_mpeg2.mkv": remux(by_dts, **MPEG2),
    "by_dts_mpeg2.ts": remux(by_dts, **MPEG2),
    "by_dts_mpeg4.mkv": remux(by_dts, **MPEG4),
    "mpeg2.asf": encode(**MPEG2),
    "mpeg2.mxf": encode(**MPEG2),
    "mpeg2.avi": encode(**MPEG2),
    "mpeg2.vob": encode(**MPEG2),
    # Two fields to a picture
    "fields.ts": bits("h264", bitstreams.h264_fields()),
    "fields.mp4": bits("h264", bitstreams.h264_fields()),
    "fields.mkv": bits("h264", bitstreams.h264_fields()),
    "fields.flv": bits("h264", bitstreams.h264_fields()),
    "fields.avi": bits("h264", bitstreams.h264_fields()),
    "fields.m2ts": bits("h264", bitstreams.h264_fields(closed=False)),
    "open_fields.ts": bits("h264", bitstreams.h264_fields(closed=False)),
    "open_fields.mkv": bits("h264", bitstreams.h264_fields(closed=False)),
    "open_fields.mp4": bits("h264", bitstreams.h264_fields(closed=False)),
    "paired_fields.ts": bits("h264", bitstreams.h264_fields(), paired=True),
    "paired_fields.mp4": bits("h264", bitstreams.h264_fields(), paired=True),
    "paired_fields.mkv": bits("h264", bitstreams.h264_fields(closed=False), paired=True),
    "by_dts_fields.mkv": bits("h264", bitstreams.h264_fields(), by_dts=True),
    "by_dts_fields.ts": bits("h264", bitstreams.h264_fields(closed=False), by_dts=True),
    "late_fields.ts": bits("h264", bitstreams.h264_fields()[1:]),
    "mpeg2_fields.ts": bits("mpeg2video", bitstreams.mpeg2_fields(), paired=True),
    "mpeg2_fields.mkv": bits("mpeg2video", bitstreams.mpeg2_fields(), paired=True),
    "mpeg2_fields.mpg": bits("mpeg2video", bitstreams.mpeg2_fields(), paired=True),
    "mpeg2_fields.mxf": bits("mpeg2video", bitstreams.mpeg2_fields(), paired=True),
    "mpeg2_single_fields.mkv": bits("mpeg2video", bitstreams.mpeg2_fields()),
    "mpeg2_single_fields.mp4": bits("mpeg2video", bitstreams.mpeg2_fields()),
    "mpeg2_single_fields.avi": bits("mpeg2video", bitstreams.mpeg2_fields()),
    "mpeg2_single_fields.mxf": bits("mpeg2video", bitstreams.mpeg2_fields()),
    "hevc_fields.ts": encode(**X265, **{"x265-params": f"{X265_PARAMS}:interlace=tff"}),
    # Pictures shown before the first keyframe: some can be decoded, some not
    "radl.mkv": remux(from_second_key, **RADL),
    "radl.ts": remux(from_second_key, **RADL),
    "radl.mp4": remux(from_second_key, **RADL),
    "cra.mkv": remux(from_second_key, **CRA),
    "cra.ts": remux(from_second_key, **CRA),
    "recovery.mkv": remux(from_second_key, **{"x264-params": f"{X264['x264-params']}:open-gop=1"}),
    "recovery.ts": remux(
        from_second_key, **{"x264-params": f"{X264['x264-params']}:open-gop=1:repeat-headers=1"}
    ),
    "mpeg2_open.mkv": remux(from_second_key, **MPEG2),
    "mpeg2_closed.mkv": remux(closed, **MPEG2),
    "mpeg2_closed.ts": remux(closed, **MPEG2),
    "vvc.ts": bits("vvc", bitstreams.vvc()),
    "vvc.mkv": bits("vvc", bitstreams.vvc()),
    "vvc.mp4": bits("vvc", bitstreams.vvc()),
    "vvc_second.ts": bits("vvc", bitstreams.vvc()[16:]),
    "vvc_by_dts.mkv": bits("vvc", bitstreams.vvc(), by_dts=True),
    # More pictures in a packet than one, or none
    "packed.avi": remux(packed, **MPEG4),
    "packed.mkv": remux(packed, **MPEG4),
    "uncoded.avi": remux(with_uncoded, **{**MPEG4, "b_frames": 0}),
    "uncoded.mp4": remux(with_uncoded, **{**MPEG4, "b_frames": 0}),
    "superframes.webm": encode(**VP9),
    "superframes.mp4": encode(**VP9),
    "hidden.mkv": remux(hidden_apart, **VP9),
    "hidden_vp8.mkv": remux(one_hidden, **VP8),
    # Ten bits; and containers and codecs that cameras and editors write
    "av1_ten_bit.mkv": encode(codec="libsvtav1", b_frames=0, preset="12", crf="10", pix_fmt="yuv420p10le"),
    "hevc_ten_bit.ts": encode(**RADL, pix_fmt="yuv420p10le"),
    "h264_ten_bit.mxf": encode(**X264, pix_fmt="yuv420p10le"),
    "wmv1.wmv": encode(codec="wmv1", b="2M", b_frames=0),
    "wmv2.wmv": encode(codec="wmv2", b="2M", b_frames=0),
    "sorenson.flv": encode(codec="flv", b="2M", b_frames=0),
    "mpeg1.mpg": encode(codec="mpeg1video", b="2M"),
    "mpeg4.mov": encode(**MPEG4),
    "xvid.avi": encode(codec="mpeg4", b="2M", b_frames=0),
    "no_b.avi": encode(**{"x264-params": "bframes=0"}),
    "motion_jpeg.avi": encode(codec="mjpeg", pix_fmt="yuvj420p", b_frames=0),
    "motion_jpeg.mov": encode(codec="mjpeg", pix_fmt="yuvj420p", b_frames=0),
    "prores.mov": encode(codec="prores_ks", pix_fmt="yuv422p10le", b_frames=0),
    "ffv1.mkv": encode(codec="ffv1", b_frames=0),
    "ffv1.avi": encode(codec="ffv1", b_frames=0),
    "dnxhr.mxf": encode(
        codec="dnxhd", profile="dnxhr_lb", pix_fmt="yuv422p", height=128, width=256, b_frames=0
    ),
    "gif.gif": encode(codec="gif", pix_fmt="rgb8", b_frames=0),
}
