import errno
import os
from pathlib import Path

import av
import encode
import numpy as np
import pytest
import transcode
from helpers import check_command_line, disk_that_fills, frames_of, kill_and_repeat, reasons_in, spoil, table
from workers import attempt

from videonorm.data import read_manifest
from videonorm.errors import UserError

QUICK = ("--preset", "ultrafast", "--num_workers", "1")


def run(out, *arguments):
    return transcode.main([*map(str, arguments), "--out", str(out), *QUICK])


def made(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def test_urls_and_class_names(folder, tmp_path):
    (folder / "classes.txt").write_text("walk\njump\nsit\n")
    rows = [f"file://{folder}/jump/c.mp4,1,jump", "jump/a b.mp4,1,jump", "walk/d.mp4?token=x,0,walk"]
    (folder / "m.csv").write_text("\n".join(["path,label,class_name", *rows]))
    assert (
        run(tmp_path / "out", folder / "m.csv", "--root", f"file://{folder}", "--max_bad_fraction", 0.4) == 0
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
    assert run(out, folder, "--short_side", 32, "--gop", 5) == 0
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


def test_what_fails_is_named_and_the_rest_goes_on(folder, tmp_path, capsys):
    spoil(folder)
    assert run(tmp_path / "out", folder) == 1
    reasons = reasons_in(tmp_path / "out/bad_videos.csv")
    assert reasons.keys() == {"cut.mp4", "empty.mp4", "spoilt.mp4"}
    assert reasons["empty.mp4"] == "is empty (0 bytes)" and "damaged" in reasons["spoilt.mp4"]
    assert len(table(tmp_path / "out/manifest.csv")) == 3
    assert "3 files made, 0 kept from before, 3 failed" in capsys.readouterr().out
    assert run(tmp_path / "out", folder, "--max_bad_fraction", 0.5) == 0
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


def test_same_stem(tmp_path, make_video, capsys):
    (tmp_path / "s/x").mkdir(parents=True)
    make_video(tmp_path / "s/x/v.mp4", 3)
    make_video(tmp_path / "s/x/v.mkv", 4)
    make_video(tmp_path / "s/x/v.mkv.avi", 5, codec="mpeg4")
    for _ in range(2):
        assert run(tmp_path / "out", tmp_path / "s") == 0
        rows = table(tmp_path / "out/manifest.csv")
        assert [(row["path"], row["frames"]) for row in rows] == [
            ("videos/x/v.mkv.mp4", "4"),
            ("videos/x/v.mkv.avi.mp4", "5"),
            ("videos/x/v.mp4.mp4", "3"),
        ]
    assert "0 files made, 3 kept from before, 0 failed" in capsys.readouterr().out


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


@pytest.mark.slow
def test_killed_half_way_and_run_again(tmp_path, make_video):
    source, killed, whole = tmp_path / "source", tmp_path / "killed", tmp_path / "whole"
    (source / "x").mkdir(parents=True)
    for number in range(8):
        make_video(source / f"x/{number}.mp4", 30, height=96, width=128)
    arguments = [str(source), "--out", str(killed), "--preset", "slow", "--num_workers", "1"]
    kill_and_repeat(transcode.__file__, arguments, (killed / "videos/x/2.mp4").exists, killed)
    assert transcode.main([str(source), "--out", str(whole), "--preset", "slow", "--num_workers", "2"]) == 0
    assert made(killed) == made(whole)
    assert (killed / "manifest.csv").read_text() == (whole / "manifest.csv").read_text()
    for number in range(8):
        pair = (frames_of(folder / f"videos/x/{number}.mp4") for folder in (killed, whole))
        np.testing.assert_array_equal(*pair)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--short_side", "255"], "argument --short_side: (255) must be even"),
        (["--crf", "60"], "argument --crf: (60) must be from 0 to 51"),
        (["--fps", "0"], "argument --fps: (0) must be a number above 0"),
        (["--shard", "2/2"], "argument --shard: (2/2) must be I/N"),
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


@pytest.mark.parametrize("script", ["transcode", "pack", "verify", "summary"])
def test_help_is_light_and_mistakes_exit_with_2(script, tmp_path):
    check_command_line(str(Path(transcode.__file__).with_name(f"{script}.py")), tmp_path)


def test_names_of_any_bytes(tmp_path, make_video, capsys):
    make_video(tmp_path / "v.mp4", 3)
    folder = os.fsencode(tmp_path / "s/x")
    os.makedirs(folder)
    for name in (b'caf\xe9, "a".mp4', b"two\nlines.mp4", b"$(touch x) 'b.mp4"):
        os.link(tmp_path / "v.mp4", os.path.join(folder, name))
    (tmp_path / "s/x/\xff.mp4").touch()
    assert run(tmp_path / "out", tmp_path / "s", "--max_bad_fraction", 0.5) == 0
    manifest = read_manifest(tmp_path / "out/manifest.csv")
    assert len(manifest.entries) == 3
    assert all(os.path.exists(entry.path) for entry in manifest.entries)


def test_an_output_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="must be a folder to write in"):
        run(tmp_path / "out", folder)


@pytest.mark.parametrize("name", ["videos", "manifest.csv", "bad_videos.csv"])
def test_what_cannot_be_written_is_found_before_the_work(name, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(transcode, "run_all", None)
    blocked = tmp_path / "out" / name
    blocked.mkdir(parents=True)
    if name == "videos":
        blocked.rmdir()
        blocked.touch()
    with pytest.raises(UserError, match=f"must be a folder to write in, with room: {blocked}: "):
        run(tmp_path / "out", folder)


def test_what_was_made_before_the_disk_was_full_is_kept(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(transcode, "run_all", disk_that_fills(after=2))
    with pytest.raises(UserError) as error:
        run(out, folder)
    assert (
        str(error.value) == f"--out ({out}) must be a folder to write in, with room: No space left on device"
    )
    monkeypatch.setattr(transcode, "run_all", disk_that_fills(after=3))
    assert run(out, folder) == 0
    assert "1 files made, 2 kept from before, 0 failed" in capsys.readouterr().out


def test_a_full_disk_stops_the_run(folder, tmp_path, monkeypatch):
    def full(*arguments):
        raise av.OSError(errno.ENOSPC, "No space left on device")  # as the muxer does

    monkeypatch.setattr(encode, "_make", full)
    settings = encode.Settings(256, 12, 23.0, "medium", None, False, None)
    job = encode.Job(str(folder / "jump/c.mp4"), str(tmp_path / "new.mp4"), tmp_path, None, None, settings)
    with pytest.raises(OSError, match="No space left on device"):
        attempt(encode.transcode, job)
