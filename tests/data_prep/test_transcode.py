import csv
import errno
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import transcode
from workers import Failed

from videonorm.data import open_video, read_manifest
from videonorm.errors import UserError

SCRIPT = transcode.__file__
QUICK = ("--preset", "ultrafast", "--jobs", "1")


def run(out, *arguments):
    return transcode.main([*map(str, arguments), "--out", str(out), *QUICK])


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def frames_of(path):
    with open_video(str(path)) as video:
        return video.read(range(video.num_frames))


def made(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


@pytest.fixture
def folder(tmp_path, make_video):
    for name in ("jump/a b.mp4", "jump/c.mp4", "walk/d.mp4"):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(tmp_path / "source" / name, 20, height=64, width=96)
    return tmp_path / "source"


def test_urls_and_class_names(folder, tmp_path):
    (folder / "classes.txt").write_text("walk\njump\nsit\n")
    rows = [f"file://{folder}/jump/c.mp4,1,jump", "jump/a b.mp4,1,jump", "walk/d.mp4?token=x,0,walk"]
    (folder / "m.csv").write_text("\n".join(["path,label,class_name", *rows]))
    assert (
        run(tmp_path / "out", folder / "m.csv", "--root", f"file://{folder}", "--max-bad-fraction", 0.4) == 0
    )
    manifest = read_manifest(tmp_path / "out" / "m.csv")
    assert [os.path.relpath(entry.path, tmp_path / "out/videos") for entry in manifest.entries] == [
        *("jump/c.mp4", "jump/a b.mp4"),
    ]
    assert manifest.class_names == ["walk", "jump", "sit"]
    bad = table(tmp_path / "out" / "bad_videos.csv")
    assert [row["path"] for row in bad] == [f"file://{folder}/walk/d.mp4?token=***"]


def test_a_folder(folder, tmp_path, number_of, capsys):
    out = tmp_path / "out"
    assert run(out, folder, "--short-side", 32, "--gop", 5) == 0
    assert made(out) == [
        *("bad_videos.csv", "manifest.csv"),
        *("videos/jump/a b.mp4", "videos/jump/c.mp4", "videos/walk/d.mp4"),
    ]
    rows = table(out / "manifest.csv")
    assert rows[0] == {
        **{"path": "videos/jump/a b.mp4", "label": "0", "class_name": "jump", "duration_seconds": "0.8"},
        **{"fps": "25.0", "frames": "20", "width": "48", "height": "32", "codec": "h264"},
    }
    assert [entry.label for entry in read_manifest(out / "manifest.csv").entries] == [0, 0, 1]
    assert [number_of(frame) for frame in frames_of(out / "videos/walk/d.mp4")] == list(range(20))
    with av.open(str(out / "videos/walk/d.mp4")) as container:
        keys = [i for i, packet in enumerate(container.demux(video=0)) if packet.size and packet.is_keyframe]
    assert keys[0] == 0 and max(np.diff(keys)) <= 5
    printed = capsys.readouterr().out
    assert "disk: " in printed and "times as fast" in printed


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
    assert run(out, tmp_path / "source", "--max-bad-fraction", 0) == 0
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
    assert transcode._new_size(*coded, Fraction(aspect), short_side) == expected


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


def write_with_sound(path):
    """Two seconds: silence, then a tone."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = container.add_stream("aac", rate=16000)
        audio.layout = "mono"
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), "rgb24")
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode())
        time = np.arange(32000) / 16000
        samples = (np.sin(2 * np.pi * 440 * time) * (time >= 1)).astype(np.float32)[None]
        sound = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
        sound.sample_rate, sound.pts = 16000, 0
        container.mux(audio.encode(sound))
        container.mux(audio.encode())


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


def test_what_fails_is_named_and_the_rest_goes_on(folder, tmp_path, capsys):
    whole = (folder / "walk/d.mp4").read_bytes()
    (folder / "walk/cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "walk/empty.mp4").touch()
    spoilt = bytearray(whole)
    at = whole.index(b"mdat") + len(whole) // 4
    spoilt[at : at + 400] = bytes(400)
    (folder / "walk/spoilt.mp4").write_bytes(spoilt)
    assert run(tmp_path / "out", folder) == 1
    reasons = {Path(row["path"]).name: row["reason"] for row in table(tmp_path / "out/bad_videos.csv")}
    assert reasons.keys() == {"cut.mp4", "empty.mp4", "spoilt.mp4"}
    assert reasons["empty.mp4"] == "is empty (0 bytes)" and "damaged" in reasons["spoilt.mp4"]
    assert len(table(tmp_path / "out/manifest.csv")) == 3
    assert "3 files made, 0 kept from before, 3 failed" in capsys.readouterr().out
    assert run(tmp_path / "out", folder, "--max-bad-fraction", 0.5) == 0
    assert not any("unfinished" in name for name in made(tmp_path / "out"))


def test_files_are_kept_only_if_source_and_settings_are_the_same(folder, tmp_path, make_video, capsys):
    out = tmp_path / "out"
    run(out, folder)
    capsys.readouterr()
    run(out, folder)
    assert "0 files made, 3 kept from before" in capsys.readouterr().out
    make_video(folder / "walk/d.mp4", 10)
    run(out, folder)
    assert "1 files made, 2 kept from before" in capsys.readouterr().out
    assert len(frames_of(out / "videos/walk/d.mp4")) == 10
    (out / "videos/jump/c.mp4").unlink()
    run(out, folder)
    assert "1 files made, 2 kept from before" in capsys.readouterr().out
    run(out, folder, "--crf", 30)
    assert "3 files made, 0 kept from before" in capsys.readouterr().out


def test_files_of_others_are_not_replaced(folder, tmp_path):
    other = tmp_path / "out/videos/jump/c.mp4"
    other.parent.mkdir(parents=True)
    other.write_bytes((folder / "jump/c.mp4").read_bytes())
    assert run(tmp_path / "out", folder) == 1
    (bad,) = table(tmp_path / "out/bad_videos.csv")
    assert "transcode.py did not make" in bad["reason"]
    assert other.read_bytes() == (folder / "jump/c.mp4").read_bytes()


def test_same_stem(tmp_path, make_video):
    (tmp_path / "s/x").mkdir(parents=True)
    make_video(tmp_path / "s/x/v.mp4", 3)
    make_video(tmp_path / "s/x/v.mkv", 4)
    assert run(tmp_path / "out", tmp_path / "s") == 0
    assert [row["path"] for row in table(tmp_path / "out/manifest.csv")] == [
        "videos/x/v.mkv.mp4",
        "videos/x/v.mp4.mp4",
    ]


def test_manifests_that_share_videos_and_lack_labels(folder, tmp_path, capsys):
    for split, label in (("val", "1"), ("test", "")):
        (folder / f"{split}.csv").write_text(f"path,label\njump/c.mp4,{label}\n")
    assert run(tmp_path / "out", folder / "val.csv", folder / "test.csv") == 0
    assert "1 files made" in capsys.readouterr().out
    assert table(tmp_path / "out/val.csv")[0]["label"] == "1"
    assert table(tmp_path / "out/test.csv")[0]["path"] == "videos/jump/c.mp4"


def test_shards_share_the_work(folder, tmp_path, capsys):
    one, many = tmp_path / "one", tmp_path / "many"
    run(one, folder)
    for shard in range(2):
        run(many, folder, "--shard", f"{shard}/2")
    assert [len(table(many / f"manifest.shard-{shard}-of-2.csv")) for shard in range(2)] == [2, 1]
    capsys.readouterr()
    run(many, folder)
    assert "0 files made, 3 kept from before" in capsys.readouterr().out
    assert (many / "manifest.csv").read_text() == (one / "manifest.csv").read_text()


def test_killed_half_way_and_run_again(tmp_path, make_video):
    source, killed, whole = tmp_path / "source", tmp_path / "killed", tmp_path / "whole"
    (source / "x").mkdir(parents=True)
    for number in range(8):
        make_video(source / f"x/{number}.mp4", 30, height=96, width=128)
    command = [sys.executable, SCRIPT, str(source), "--out", str(killed), "--preset", "slow", "--jobs", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (killed / "videos/x/2.mp4").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "manifest.csv").exists()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert transcode.main([str(source), "--out", str(whole), "--preset", "slow", "--jobs", "2"]) == 0
    assert made(killed) == made(whole)
    assert (killed / "manifest.csv").read_text() == (whole / "manifest.csv").read_text()
    for number in range(8):
        pair = (frames_of(folder / f"videos/x/{number}.mp4") for folder in (killed, whole))
        np.testing.assert_array_equal(*pair)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--short-side", "255"], "--short-side (255) must be even"),
        (["--crf", "60"], "--crf (60) must be from 0 to 51"),
        (["--fps", "0"], "--fps (0) must be a number above 0"),
        (["--shard", "2/2"], "--shard (2/2) must be I/N"),
    ],
)
def test_mistakes(arguments, sentence, folder, tmp_path):
    with pytest.raises(UserError) as error:
        run(tmp_path / "out", folder, *arguments)
    assert str(error.value).startswith(sentence)


def test_sources_are_never_overwritten(tmp_path, make_video):
    (tmp_path / "out/videos/x").mkdir(parents=True)
    make_video(tmp_path / "out/videos/x/v.mp4", 3)
    with pytest.raises(UserError, match="must not hold the sources"):
        run(tmp_path / "out", tmp_path / "out/videos")


def test_mistakes_in_a_manifest_name_the_line(tmp_path):
    (tmp_path / "m.csv").write_text("path,label,start_seconds,end_seconds\na.mp4,0,2,1\n")
    with pytest.raises(UserError, match="m.csv line 2: end_seconds"):
        run(tmp_path / "out", tmp_path / "m.csv")


@pytest.mark.parametrize("script", ["transcode", "verify", "summary"])
def test_help_is_light_and_mistakes_exit_with_2(script, tmp_path):
    program = Path(SCRIPT).with_name(f"{script}.py")
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", program, "--help"], capture_output=True, text=True, check=True
    )
    assert "examples:" in listed.stdout and "torch" not in listed.stderr
    out = ["--out", tmp_path / "o.png"]
    wrong = subprocess.run(
        [sys.executable, program, tmp_path / "no.csv", *out], capture_output=True, text=True
    )
    assert wrong.returncode == 2
    assert (
        wrong.stderr
        == f"{script}.py: manifest ({tmp_path / 'no.csv'}) must be a file or folder that exists\n"
    )


def test_names_of_any_bytes(tmp_path, make_video, capsys):
    make_video(tmp_path / "v.mp4", 3)
    folder = os.fsencode(tmp_path / "s/x")
    os.makedirs(folder)
    for name in (b'caf\xe9, "a".mp4', b"two\nlines.mp4", b"$(touch x) 'b.mp4"):
        os.link(tmp_path / "v.mp4", os.path.join(folder, name))
    (tmp_path / "s/x/\xff.mp4").touch()
    assert run(tmp_path / "out", tmp_path / "s", "--max-bad-fraction", 0.5) == 0
    manifest = read_manifest(tmp_path / "out/manifest.csv")
    assert len(manifest.entries) == 3
    assert all(os.path.exists(entry.path) for entry in manifest.entries)


def test_a_long_video_is_cut_from_the_keyframe_before(tmp_path, make_video, kinds, number_of):
    """Open GOPs and gradual refresh, where what follows a seek is not whole at once."""
    for name in ("open_gop.mp4", "intra_refresh.mp4", "mpeg4.avi", "late_start.mp4"):
        make_video(tmp_path / name, **kinds[name])
    (tmp_path / "m.csv").write_text(
        "path,label,start_seconds,end_seconds\n"
        "open_gop.mp4,0,1,1.4\nintra_refresh.mp4,0,1,1.4\nmpeg4.avi,0,1,1.4\nlate_start.mp4,0,1,1.4\n"
    )
    assert run(tmp_path / "out", tmp_path / "m.csv", "--max-bad-fraction", 0) == 0
    for row in table(tmp_path / "out/m.csv"):
        shown = [number_of(frame) for frame in frames_of(tmp_path / "out" / row["path"])]
        assert len(shown) == 10 and set(np.diff(shown)) == {1}, row["path"]
        assert shown[0] in (25, 275 % 256), row["path"]


def test_an_output_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="must be a folder to write in"):
        run(tmp_path / "out", folder)


def test_a_full_disk_stops_the_run(folder, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transcode, "_make", full)
    settings = transcode._settings(transcode.parser().parse_args(["m", "--out", "o"]))
    names = (folder / "jump/c.mp4", tmp_path / "new.mp4", tmp_path / "aside.mp4")
    result = transcode.transcode(transcode.Job(*map(str, names), None, None, settings))
    assert result == Failed("No space left on device", stop=True)
