import csv
import errno
import os
import re
from pathlib import Path

import numpy as np
import pack
import packing
import pytest
from helpers import disk_that_fills, frames_of, kill_and_repeat, reasons_in, spoil, table
from workers import attempt

from videonorm.data import open_video, read_manifest
from videonorm.errors import UserError


def run(out, *arguments):
    return pack.main(["--out", str(out), "--short_side", "48", "--num_workers", "1", *map(str, arguments)])


def made(out):
    """Path -> content of each file."""
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_folder(folder, tmp_path, number_of, capsys):
    out = tmp_path / "out"
    assert run(out, folder) == 0
    shard = next(name for name in made(out) if "shards/" in name)
    assert made(out).keys() == {"bad_videos.csv", "manifest.csv", shard}
    assert re.fullmatch(r"shards/manifest-[0-9a-f]{8}-00000\.safetensors", shard)
    rows = table(out / "manifest.csv")
    assert rows[1] == {
        **{"path": f"{shard}/1", "label": "0", "class_name": "jump", "duration_seconds": "0.8"},
        **{"fps": "25.0", "frames": "20", "width": "72", "height": "48", "codec": "mjpeg"},
        "source": str(folder / "jump/c.mp4"),
    }
    entries = read_manifest(out / "manifest.csv").entries
    assert [entry.label for entry in entries] == [0, 0, 1]
    for entry in entries:
        assert [number_of(frame) for frame in frames_of(entry.path)] == list(range(20))
    printed = capsys.readouterr().out
    assert re.search(r"disk: about \d.*bytes a video|kB a video", printed)
    assert "times as fast" in printed and "time: about 0:00:" in printed


def test_what_it_would_take_is_said_before_and_nothing_is_written(folder, tmp_path, capsys):
    assert run(tmp_path / "out", folder, "--dry_run") == 0
    assert "times as fast" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_stretches_columns_and_splits(tmp_path, make_video, number_of):
    make_video(tmp_path / "v.mp4", 40, gop=8)
    times = np.cumsum(np.random.default_rng(0).integers(1, 9, 40)).tolist()
    make_video(tmp_path / "variable.mp4", 40, times=times)
    manifest = tmp_path / "all.csv"
    manifest.write_text(
        "path,label,split,start_seconds,end_seconds,frames,note\n"
        "v.mp4,3,train,0.8,1.2,99,n\nvariable.mp4,2,train,,,99,\nv.mp4,1,val,,0.4,99,\n"
    )
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    assert run(tmp_path / "out", manifest, "--split", "train") == 0
    assert (tmp_path / "out/classes.txt").read_text() == "a\nb\nc\nd\n"
    one, other = table(tmp_path / "out/all.csv")
    assert list(one)[:3] == ["path", "label", "split"]
    assert "start_seconds" not in one and "end_seconds" not in one
    assert (one["source"], one["source_start_seconds"], one["source_end_seconds"]) == ("v.mp4", "0.8", "1.2")
    assert (one["label"], one["note"], one["frames"], other["frames"]) == ("3", "n", "10", "40")
    assert [number_of(f) for f in frames_of(tmp_path / "out" / one["path"])] == list(range(20, 30))
    with (
        open_video(str(tmp_path / "variable.mp4")) as video,
        open_video(str(tmp_path / "out" / other["path"])) as packed,
    ):
        np.testing.assert_array_equal(packed.seconds, video.seconds)
    assert run(tmp_path / "third", manifest, "--split", "val", "--frame_step", 3) == 0
    (row,) = table(tmp_path / "third/all.csv")
    assert [number_of(f) for f in frames_of(tmp_path / "third" / row["path"])] == [0, 3, 6, 9]
    assert row["fps"] == "8.3333"
    with pytest.raises(UserError, match=r"--split \(test\) must be in the column split"):
        run(tmp_path / "no", manifest, "--split", "test")


def test_a_packed_manifest_can_be_packed_smaller(folder, tmp_path, number_of):
    assert run(tmp_path / "out", folder) == 0
    assert run(tmp_path / "small", tmp_path / "out/manifest.csv", "--short_side", 32) == 0
    rows = table(tmp_path / "small/manifest.csv")
    assert [row["height"] for row in rows] == ["32"] * 3
    assert [number_of(f) for f in frames_of(tmp_path / "small" / rows[2]["path"])] == list(range(20))


def test_what_fails_is_named_and_the_rest_goes_on(folder, tmp_path, capsys):
    spoil(folder)
    assert run(tmp_path / "out", folder) == 1
    reasons = reasons_in(tmp_path / "out/bad_videos.csv")
    assert reasons.keys() == {"cut.mp4", "empty.mp4", "spoilt.mp4"}
    assert reasons["empty.mp4"] == "is empty (0 bytes)" and "damaged" in reasons["spoilt.mp4"]
    rows = table(tmp_path / "out/manifest.csv")
    assert [Path(row["source"]).name for row in rows] == ["a b.mp4", "c.mp4", "d.mp4"]
    assert "3 of 6 videos are bad" in capsys.readouterr().out
    before = made(tmp_path / "out")
    assert run(tmp_path / "out", folder, "--max_bad_fraction", 0.5) == 0
    assert made(tmp_path / "out") == before and "to pack" not in capsys.readouterr().out


def test_nothing_but_bad_videos(tmp_path, capsys):
    (tmp_path / "m.csv").write_text("path,label\nm.csv,0\n")
    assert run(tmp_path / "out", tmp_path / "m.csv") == 1
    assert "none of the 1 videos tried can be read" in capsys.readouterr().out
    assert table(tmp_path / "out/m.csv") == [] and len(table(tmp_path / "out/bad_videos.csv")) == 1


def test_several_manifests_and_shards(folder, tmp_path):
    for split, names in (("train", ("jump/a b.mp4", "walk/d.mp4")), ("val", ("jump/c.mp4", "walk/d.mp4"))):
        (folder / f"{split}.csv").write_text("path,label\n" + "".join(f"{name},1\n" for name in names))
    assert run(tmp_path / "out", folder / "train.csv", folder / "val.csv") == 0
    paths = [row["path"] for split in ("train", "val") for row in table(tmp_path / f"out/{split}.csv")]
    assert len(set(paths)) == 4 and len({os.path.dirname(path) for path in paths}) == 2


def test_killed_half_way_and_run_again(tmp_path, make_video):
    """Many shards, of several videos each; a bad one among them."""
    source, killed, whole = tmp_path / "source", tmp_path / "killed", tmp_path / "whole"
    (source / "x").mkdir(parents=True)
    make_video(tmp_path / "v.mp4", 30, height=128, width=192, preset="ultrafast")
    for number in range(40):
        os.link(tmp_path / "v.mp4", source / f"x/{number}.mp4")
    (source / "x/12.mp4").unlink()
    (source / "x/12.mp4").write_bytes(b"bad")
    options = ["--short_side", "128", "--quality", "98", "--shard_mib", "1"]
    arguments = [str(source), "--out", str(killed), *options, "--num_workers", "1"]
    kill_and_repeat(pack.__file__, arguments, lambda: any(killed.glob("shards/*-00001.*")), killed)
    assert pack.main([str(source), "--out", str(whole), *options, "--num_workers", "2"]) == 0
    assert 4 < len(list(whole.glob("shards/*"))) < 39
    assert len(table(whole / "manifest.csv")) == 39
    assert made(killed) == made(whole)


def test_other_settings_or_sources_do_not_mix(folder, tmp_path, make_video):
    run(tmp_path / "out", folder)
    with pytest.raises(UserError, match="must not hold manifest packed in another way"):
        run(tmp_path / "out", folder, "--quality", 80)
    make_video(folder / "walk/d.mp4", 10)
    with pytest.raises(UserError, match="must not hold manifest packed in another way"):
        run(tmp_path / "out", folder)


def test_a_disk_that_is_too_small(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pack.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match=r"must have room for about .* kB, and has 1\.0 kB"):
        run(tmp_path / "out", folder)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_stops_the_run(folder, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    settings = packing.Settings(48, 90, 1)
    job = packing.Job(str(folder / "jump/c.mp4"), tmp_path / "s.safetensors", None, None, settings)
    with pytest.raises(OSError, match="No space left on device"):
        attempt(packing.pack, job)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--quality", "101"], "argument --quality: (101) must be from 1 to 100"),
        (["--split", "val"], "--split (val) must be in the column split of"),
    ],
)
def test_mistakes(arguments, sentence, folder, tmp_path):
    with pytest.raises(UserError) as error:
        run(tmp_path / "out", folder, *arguments)
    assert str(error.value).startswith(sentence)


def test_an_output_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="must be a folder to write in"):
        run(tmp_path / "out", folder)


def test_what_cannot_be_written_is_found_before_the_work(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "_estimate", lambda *_: None)
    monkeypatch.setattr(packing, "run_all", None)
    (tmp_path / "out/manifest.csv").mkdir(parents=True)
    with pytest.raises(UserError, match="with room: .*/out/manifest.csv: is no ordinary file"):
        run(tmp_path / "out", folder)


def test_what_was_packed_before_the_disk_was_full_is_kept(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(pack, "_estimate", lambda *_: None)
    monkeypatch.setattr(packing, "run_all", disk_that_fills(after=2))
    with pytest.raises(UserError) as error:
        run(out, folder)
    assert (
        str(error.value) == f"--out ({out}) must be a folder to write in, with room: No space left on device"
    )
    monkeypatch.setattr(packing, "run_all", disk_that_fills(after=1))  # only one is left
    assert run(out, folder) == 0
    assert len(table(out / "manifest.csv")) == 3


def test_names_of_any_bytes(tmp_path, make_video):
    make_video(tmp_path / "v.mp4", 3)
    folder = os.fsencode(tmp_path / "s/x")
    os.makedirs(folder)
    for name in (b'caf\xe9, "a".mp4', b"two\nlines.mp4"):
        os.link(tmp_path / "v.mp4", os.path.join(folder, name))
    os.symlink(tmp_path / "no", os.path.join(folder, b"\xff.mp4"))
    assert run(tmp_path / "out", tmp_path / "s", "--max_bad_fraction", 0.5) == 0
    assert len(read_manifest(tmp_path / "out/manifest.csv").entries) == 2
    with open(tmp_path / "out/bad_videos.csv", newline="", errors="surrogateescape") as file:
        (bad,) = csv.DictReader(file)
    assert os.fsencode(bad["path"]).endswith(b"\xff.mp4")
