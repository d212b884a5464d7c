"""H.264's headers: as x264 writes them, and as others may."""

import av
import pytest
from bitstreams import bits, h264_fields, to_bytes

from videonorm.data.decoding import h264
from videonorm.data.decoding.h264 import SequenceParameters, Slice, nal_units, sequence_parameters


@pytest.mark.parametrize(
    "pix_fmt, params, has_fields",
    [
        ("yuv420p", "bframes=0", False),
        ("yuv420p", "interlaced=1", True),
        ("yuv420p", "cqm=jvt", False),
        ("yuv444p", "cqm=jvt:interlaced=1", True),
        ("yuv422p10le", "bframes=2", False),
    ],
)
@pytest.mark.parametrize("container", ["mp4", "ts"])
def test_headers_by_x264(container, pix_fmt, params, has_fields, make_video, tmp_path):
    options = {"x264-params": params, "flags": "+ildct" if has_fields else "-ildct"}
    path = make_video(tmp_path / f"v.{container}", 12, pix_fmt=pix_fmt, **options)
    with av.open(str(path)) as file:
        extradata = file.streams.video[0].codec_context.extradata
        contents = [bytes(packet) for packet in file.demux(video=0) if packet.size]
    parameters = sequence_parameters(extradata)
    assert parameters is not None
    assert parameters[1:] == (False, has_fields)
    with av.open(str(path)) as file:
        kinds = sorted({1: 2, 2: 0, 3: 1}[int(picture.pict_type)] for picture in file.decode(video=0))
    first = []
    for content in contents:
        units = [at for at in nal_units(content, h264.length_size(extradata)) if content[at] & 31 in (1, 5)]
        part = Slice.of(content[units[0] : units[0] + h264.SLICE_BYTES], parameters)
        assert part is not None and part.field == 0
        first.append(part)
    assert sorted(part.kind for part in first) == kinds
    assert first[0].is_idr and first[0].frame_num == 0


def test_headers_of_fields():
    units = [unit for picture in h264_fields(1) for unit in picture.units]
    starts = [[at for at in nal_units(unit, 0)][-1] for unit in units]
    parameters = SequenceParameters.of(units[0][next(nal_units(units[0], 0)) :])
    assert parameters == (4, False, True)
    slices = [Slice.of(unit[at:], parameters) for unit, at in zip(units, starts, strict=True)]
    assert [part.field for part in slices] == [1, 2] * 8
    assert [part.kind for part in slices[::2]] == [2, 0, 1, 1, 0, 1, 1, 0]
    assert [part.frame_num for part in slices] == [0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3]
    assert [part.is_reference for part in slices[::2]] == [True, True, False, False, True, False, False, True]


# References, gaps, size, fields, direct inference, no cropping, no further data.
END = (1, "0", 3, 3, "0", "1", "00")


@pytest.mark.parametrize(
    "what, profile, parts, expected",
    [
        ("order of display by frames", 66, (0, 2, 2, *END), (6, False, True)),
        ("order of display in a cycle", 77, (0, 0, 1, "0", 4, 3, 2, 5, 6, *END), (4, False, True)),
        ("planes apart", 244, (0, 3, "1", 0, 0, "0", "0", 0, 0, 0, *END), (4, True, True)),
        ("scaling as before", 100, (0, 1, 0, 0, "0", "1", "0" * 8, 1, 0, 0, *END), (5, False, True)),
        (
            "scaling",
            100,
            (0, 1, 0, 0, "01", "1", *[1] * 16, "1", 16, "0" * 6, 0, 0, 0, *END),
            (4, False, True),
        ),
        ("a frame number too wide", 66, (0, 13, 2, *END), None),
        ("an end too early", 66, (0, 0), None),
    ],
)
def test_parameters_that_x264_does_not_write(what, profile, parts, expected):
    unit = bytes([0x67, profile, 0, 30]) + to_bytes(bits(*parts, "1"))
    assert SequenceParameters.of(unit) == expected
