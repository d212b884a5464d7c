"""The files that data_prep/transcode.py makes: their times, sizes, colours and sound."""

from fractions import Fraction
from pathlib import Path

import av
import encode
import numpy as np
import pytest
import transcode
from helpers import frames_of, table
from pictures import new_size

from videonorm.data import open_video
from videonorm.data.decoding.index_store import packet_index
from videonorm.data.decoding.orientation import AS_CODED


def run(out, *arguments):
    quick = ("--preset", "ultrafast", "--num_workers", "1")
    return transcode.main([*map(str, arguments), "--out", str(out), *quick])


KINDS = (
    *(
        "b_frames.mp4",
        "open_gop.mp4",
        "intra_refresh.mp4",
        "late_start.mp4",
        "variable_rate.mp4",
        "odd_size.mp4",
    ),
    *("ten_bit.mkv", "fragments.mp4", "upright.mp4", "transport.ts", "vp9.webm", "mpeg4.avi", "mpeg2.mpg"),
)


def test_every_frame_of_every_kind_keeps_its_time(tmp_path, make_video, kinds, number_of):
    (tmp_path / "source/all").mkdir(parents=True)
    for name in KINDS:
        make_video(tmp_path / "source/all" / name, **kinds[name])
    out = tmp_path / "out"
    assert run(out, tmp_path / "source", "--max_bad_fraction", 0) == 0
    assert table(out / "bad_videos.csv") == []
    for name in KINDS:
        with (
            open_video(str(tmp_path / "source/all" / name)) as old,
            open_video(str(out / "videos/all" / Path(name).with_suffix(".mp4"))) as new,
        ):
            before, after = old.read(range(old.num_frames)), new.read(range(new.num_frames))
            np.testing.assert_allclose(new.seconds, old.seconds, atol=1e-4, err_msg=name)
            turns = -1 if name == "upright.mp4" else 0  # as it was before it was turned upright
            shown = [number_of(np.rot90(frame, turns)) for frame in after]
            assert shown == [number_of(np.rot90(frame, turns)) for frame in before], name
            if name != "odd_size.mp4":
                assert after.shape == before.shape, name
                assert abs(after.mean((1, 2)) - before.mean((1, 2))).max() < 6, name  # colours
    assert frames_of(out / "videos/all/odd_size.mp4").shape[1:3] == (64, 76)


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
@pytest.mark.parametrize(
    "matrix",
    [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0), (0, 1, -1, 0), (0.9, 0.4, -0.4, 0.9)],
)
def test_pictures_are_laid_as_the_reader_lays_them_and_only_once(matrix, name, tmp_path, make_video):
    source, target = make_video(tmp_path / name, 5, width=80, matrix=matrix), tmp_path / "new.mp4"
    settings = encode.Settings(256, 12, 5.0, "ultrafast", None, False, None)
    made = encode.transcode(encode.Job(str(source), str(target), tmp_path, None, None, settings))
    before, after = frames_of(source), frames_of(target)
    assert before.shape == after.shape == (5, made.facts.height, made.facts.width, 3)
    assert np.abs(before.astype(int) - after).mean() < 2
    assert packet_index(str(target)).format.matrix == AS_CODED


def with_aspect(path, make_video, aspect):
    make_video(path.with_name("square.mp4"), 5, height=64, width=80)
    with av.open(str(path.with_name("square.mp4"))) as source, av.open(str(path), "w") as copy:
        stream = copy.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for frame in source.decode(video=0):
            frame.pict_type = 0
            copy.mux(stream.encode(frame))
        copy.mux(stream.encode())
    path.with_name("square.mp4").unlink()


def test_uneven_pixels_become_square(tmp_path, make_video):
    (tmp_path / "source/x").mkdir(parents=True)
    with_aspect(tmp_path / "source/x/wide.mp4", make_video, Fraction(3, 2))
    assert run(tmp_path / "out", tmp_path / "source") == 0
    (row,) = table(tmp_path / "out/manifest.csv")
    assert (row["width"], row["height"]) == ("120", "64")
    with av.open(str(tmp_path / "out/videos/x/wide.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio in (None, 1)


@pytest.mark.parametrize(
    ("coded", "aspect", "short_side", "expected"),
    [
        ((340, 256), 1, 256, (340, 256)),
        ((340, 256), Fraction(64, 51), 256, (426, 256)),
        ((720, 480), Fraction(8, 9), 320, (426, 320)),
        ((1080, 1920), 1, 256, (256, 456)),
        ((77, 65), 1, 256, (76, 64)),
        ((101, 101), 1, 64, (64, 64)),
        ((1, 1), 1, 256, (2, 2)),
    ],
)
def test_new_size(coded, aspect, short_side, expected):
    assert new_size(*coded, Fraction(aspect), short_side) == expected


def test_trimmed_and_at_a_fixed_rate(tmp_path, make_video, number_of):
    make_video(tmp_path / "v.mp4", 40, gop=8)
    manifest = tmp_path / "train.csv"
    manifest.write_text("path,label,start_seconds,end_seconds,note\nv.mp4,3,0.8,1.2,n\nv.mp4,2,,0.4,\n")
    assert run(tmp_path / "out", manifest) == 0
    rows = table(tmp_path / "out/train.csv")
    assert [row["path"] for row in rows] == ["videos/v_0.8_1.2.mp4", "videos/v__0.4.mp4"]
    assert (rows[0]["start_seconds"], rows[0]["end_seconds"], rows[0]["note"]) == ("", "", "n")
    shown = [number_of(frame) for frame in frames_of(tmp_path / "out" / rows[0]["path"])]
    assert shown == list(range(20, 30))
    assert run(tmp_path / "slow", manifest, "--fps", 12.5) == 0
    shown = [number_of(frame) for frame in frames_of(tmp_path / "slow" / rows[0]["path"])]
    assert len(shown) == 5 and set(np.diff(shown)) == {2}
    with open_video(str(tmp_path / "slow" / rows[0]["path"])) as video:
        assert video.frame_rate == pytest.approx(12.5)


def test_a_long_video_is_cut_from_the_keyframe_before(tmp_path, make_video, kinds, number_of):
    """Open GOPs and gradual refresh, where what follows a seek is not whole at once."""
    for name in ("open_gop.mp4", "intra_refresh.mp4", "mpeg4.avi", "late_start.mp4"):
        make_video(tmp_path / name, **kinds[name])
    (tmp_path / "m.csv").write_text(
        "path,label,start_seconds,end_seconds\n"
        "open_gop.mp4,0,1,1.4\nintra_refresh.mp4,0,1,1.4\nmpeg4.avi,0,1,1.4\nlate_start.mp4,0,1,1.4\n"
    )
    assert run(tmp_path / "out", tmp_path / "m.csv", "--max_bad_fraction", 0) == 0
    for row in table(tmp_path / "out/m.csv"):
        shown = [number_of(frame) for frame in frames_of(tmp_path / "out" / row["path"])]
        assert len(shown) == 10 and set(np.diff(shown)) == {1}, row["path"]
        assert shown[0] in (25, 275 % 256), row["path"]
