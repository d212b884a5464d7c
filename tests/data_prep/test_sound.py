"""The sound of transcoded files: kept with its time, whatever codec and container it comes from."""

from fractions import Fraction

import av
import encode
import numpy as np
import pytest
import transcode

from videonorm.data import BadVideoError


def run(out, *arguments):
    quick = ("--preset", "ultrafast", "--num_workers", "1")
    return transcode.main([*map(str, arguments), "--out", str(out), *quick])


def write_with_sound(path, codec="aac", rate=16_000, layout="mono", pictures="libx264"):
    """Two seconds: silence, then a tone."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(pictures, rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = container.add_stream(codec, rate=rate)
        audio.layout, audio.codec_context.bit_rate = layout, 64_000
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), "rgb24")
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode())
        time = np.arange(2 * rate) / rate
        tone = (np.sin(2 * np.pi * 440 * time) * (time >= 1)).astype(np.float32)
        sound = av.AudioFrame.from_ndarray(np.stack([tone] * audio.codec_context.channels), "fltp", layout)
        sound.sample_rate, sound.pts, sound.time_base = rate, 0, Fraction(1, rate)
        (taken, *_) = audio.codec_context.codec.audio_formats
        for frame in av.AudioResampler(taken, layout, rate).resample(sound):
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return path


def sound_of(path):
    """Samples of the first channel, and how many a second."""
    with av.open(str(path)) as container:
        (stream,) = container.streams.audio
        assert stream.start_time == 0 and stream.codec_context.name == "aac"
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)]), stream.rate


def with_sound(source, folder, start_seconds=None, end_seconds=None):
    settings = encode.Settings(256, 12, 23.0, "ultrafast", None, True, None)
    job = encode.Job(str(source), str(folder / "new.mp4"), folder, start_seconds, end_seconds, settings)
    assert encode.transcode(job).facts.frames
    return sound_of(folder / "new.mp4")


def test_sound(tmp_path):
    write_with_sound(tmp_path / "v.mp4")
    (tmp_path / "m.csv").write_text("path,label,start_seconds,end_seconds\nv.mp4,0,0.6,1.6\n")
    assert run(tmp_path / "without", tmp_path / "m.csv") == 0
    with av.open(str(tmp_path / "without/videos/v_0.6_1.6.mp4")) as container:
        assert not container.streams.audio
    assert run(tmp_path / "with", tmp_path / "m.csv", "--audio") == 0
    with av.open(str(tmp_path / "with/videos/v_0.6_1.6.mp4")) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert container.streams.audio[0].start_time == 0
    loud = np.flatnonzero(abs(sound) > 0.5) / 16000
    assert loud[0] == pytest.approx(0.4, abs=0.05) and loud[-1] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    "name, codec, rate, layout, pictures",
    [
        ("v.avi", "libmp3lame", 44_100, "mono", "mpeg4"),  # counts in packets of 1152 samples
        ("v.avi", "ac3", 48_000, "5.1", "mpeg4"),
        ("v.flv", "libmp3lame", 22_050, "stereo", "flv"),
        pytest.param("v.mpg", "mp2", 32_000, "stereo", "mpeg2video", marks=pytest.mark.slow),
        pytest.param("v.webm", "libopus", 48_000, "stereo", "libvpx", marks=pytest.mark.slow),
        ("v.mkv", "pcm_s16le", 12_345, "mono", "libx264"),  # a rate that AAC has not
        pytest.param("v.mkv", "flac", 96_000, "stereo", "libx264", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_sound_keeps_its_time(name, codec, rate, layout, pictures, tmp_path):
    source = write_with_sound(tmp_path / name, codec, rate, layout, pictures)
    for bounds, begin, end in (((None, None), 1.0, 2.0), ((0.6, 1.6), 0.4, 1.0)):
        sound, new_rate = with_sound(source, tmp_path, *bounds)
        loud = np.flatnonzero(abs(sound) > 0.3) / new_rate
        # An encoder's delay, which AVI and FLV do not note.
        assert loud[0] == pytest.approx(begin, abs=0.06) and loud[-1] == pytest.approx(end, abs=0.1)


def test_damaged_packets_fall_silent(tmp_path):
    content = bytearray(write_with_sound(tmp_path / "v.mkv", "libmp3lame").read_bytes())
    with av.open(str(tmp_path / "v.mkv")) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        for packet in packets[len(packets) * 3 // 5 : len(packets) * 4 // 5]:
            at = content.index(bytes(packet))
            content[at : at + packet.size] = bytes(packet.size)
    (tmp_path / "v.mkv").write_bytes(content)
    sound, rate = with_sound(tmp_path / "v.mkv", tmp_path)
    loud = np.flatnonzero(abs(sound) > 0.3) / rate
    assert loud[0] == pytest.approx(1, abs=0.06) and loud[-1] == pytest.approx(2, abs=0.1)
    assert np.diff(loud).max() == pytest.approx(0.4, abs=0.1)


def test_sound_that_cannot_be_decoded_is_named(tmp_path):
    content = write_with_sound(tmp_path / "v.mkv", "libmp3lame").read_bytes()
    (tmp_path / "v.mkv").write_bytes(content.replace(b"A_MPEG/L3", b"A_UNKNOWN"))
    with pytest.raises(BadVideoError, match="has sound in a codec that this FFmpeg cannot decode"):
        with_sound(tmp_path / "v.mkv", tmp_path)
