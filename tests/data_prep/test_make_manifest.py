"""data_prep/make_manifest.py: which videos can be used, and what is said of the others."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import make_manifest
import pytest
import rows
from helpers import HEADER, problems, table, videos_of
from video import probe

from videonorm.data import Manifests, read_manifest
from videonorm.errors import UserError

SCRIPT = make_manifest.__file__


def test_sizes_are_those_of_the_upright_picture(make_video, write, run, tmp_path):
    (tmp_path / "videos").mkdir()
    for rotation in (0, 90, 180, 270):
        make_video(tmp_path / f"videos/{rotation}.mp4", 4, height=64, width=80, rotation=rotation)
    write("l.txt", "0.mp4 0\n90.mp4 0\n180.mp4 0\n270.mp4 0\n")
    assert run("lists", "--train", "l.txt", probe=True) == 0
    rows = table("out/train.csv")
    assert [(row["width"], row["height"]) for row in rows] == [("80", "64"), ("64", "80")] * 2
    facts = [probe(row["path"]).cells() for row in rows]
    names = ("width", "height", "codec", "frames")
    assert [[row[name] for name in names] for row in rows] == [
        [fact[name] for name in names] for fact in facts
    ]


def test_kinetics_missing_duplicate_unreadable_unlabelled_unlisted(put, write, run, clip, capsys):
    names = ["good", "gone", "zero", "text", "cut", "copy"]
    rows = [f"{'b' if name == 'gone' else 'a'},{name},0,10,train" for name in names]
    rows += ["b,good,0,10,train", ",copy,20,30,train", "a,copy,0,10,val"]
    write("list.csv", "\n".join([HEADER, *rows]) + "\n")
    put("videos/train/good_000000_000010.mp4", "videos/train/copy_000000_000010.mp4")
    put(
        "videos/train/copy_000020_000030.mp4",
        "videos/again/good_000000_000010.mp4",
        "videos/train/extra.webm",
    )
    write("videos/train/zero_000000_000010.mp4", b"")
    write("videos/train/text_000000_000010.mp4", b"<html>Not found</html>" * 50)
    whole = clip[".mp4"].read_bytes()
    write("videos/train/cut_000000_000010.mp4", whole[: len(whole) - 200])
    # arrange_by_classes.py leaves links, which are no second copies.
    Path("videos/by_class/a").mkdir(parents=True)
    os.symlink("../../train/copy_000000_000010.mp4", "videos/by_class/a/copy_000000_000010.mp4")
    os.symlink("..", "videos/by_class/up")  # and a link may lead back up
    assert run("kinetics", "--annotations", "list.csv", probe=True) == 0
    assert [path for path, _, _ in videos_of("out/train.csv")] == [
        "train/good_000000_000010.mp4",
        "train/copy_000000_000010.mp4",
    ]
    found = table("out/problems.csv")
    assert [(row["status"], row["split"], os.path.basename(row["path"])) for row in found] == [
        ("missing", "train", "gone_000000_000010"),
        ("duplicate", "train", "good_000000_000010"),
        ("unlabelled", "train", "copy_000020_000030"),
        ("duplicate", "val", "copy_000000_000010"),
        ("duplicate", "", "good_000000_000010.mp4"),
        ("unlisted", "", "extra.webm"),
        ("unreadable", "train", "zero_000000_000010.mp4"),
        ("unreadable", "train", "text_000000_000010.mp4"),
        ("unreadable", "train", "cut_000000_000010.mp4"),
    ]
    reasons = [row["reason"] for row in found]
    assert reasons[:4] == [
        "has no file",
        "is the same video as in list.csv line 2, with another label",
        "has no label, as others of its split have",
        "is in split train too, in list.csv line 7",
    ]
    assert reasons[6] == "is empty (0 bytes)"
    assert reasons[7].startswith("cannot be opened")
    assert reasons[8].startswith("is truncated: it ends before ")
    assert (found[0]["label"], found[0]["class_name"], found[0]["where"]) == ("1", "b", "list.csv line 3")
    shown = capsys.readouterr().out
    assert "classes without a video that can be used: 1, the first is b" in shown
    assert "problems, each with its reason: 9, in out/problems.csv" in shown


def test_kinetics_replacement_set(put, write, run):
    write("videos/annotations/train.csv", f"{HEADER}\na,x,0,10,train\na,y,0,10,train\na,z,0,10,train\n")
    put("videos/train/z_000000_000010.mp4")
    write("videos/train/x_000000_000010.mp4", b"broken")
    folder = "videos/replacement/replacement_for_corrupted_k400"
    put(f"{folder}/x_000000_000010.mp4", f"{folder}/y_000000_000010.mp4")
    write(f"{folder}/z_000000_000010.mp4", b"broken too: the file itself stays")
    run("kinetics", probe=True)
    assert [(row["path"].split(os.sep)[-2], row["status"]) for row in table("out/train.csv")] == [
        ("replacement_for_corrupted_k400", "replacement"),
        ("replacement_for_corrupted_k400", "replacement"),
        ("train", "ok"),
    ]
    assert problems() == []


def test_kinetics_untrimmed(put, write, run):
    write("a.csv", f"{HEADER}\na,x-,0,1,train\na,x-,1,2,train\na,x-,5,15,train\n")
    put("videos/x-.webm")
    run("kinetics", "--untrimmed", "--annotations", "a.csv", probe=True)
    rows = table("out/train.csv")
    assert [(row["start_seconds"], row["end_seconds"]) for row in rows] == [("0.0", "1.0"), ("1.0", "2.0")]
    assert problems() == [("unreadable", "train", "ends at 2 s, before start_seconds (5)")]
    assert len(Manifests(train="out/train.csv").manifest("train").entries) == 2


def test_without_probe_no_video_is_opened(write, run):
    write("videos/x_000000_000010.mp4", b"")
    write("a_val.csv", "label,youtube_id,time_start,time_end\na,x,0,10\n")
    run("kinetics", "--annotations", "a_val.csv")
    row = table("out/val.csv")[0]
    assert (row["status"], row["codec"], row["frames"]) == ("not probed", "", "")


def test_folders_with_blanks_or_underscores(put, run):
    put(
        "videos/train/riding a bike/1.mp4",
        "videos/train/training dog/it's 2.mp4",
        'videos/val/riding_a_bike/"3", 4.mp4',
        "videos/val/training_dog/5\n6.avi",
        "videos/val/clapping/ 7.webm",
    )
    Path("videos/train/empty").mkdir()
    Path("videos/train/empty/notes.txt").touch()
    run("folders", probe=True)
    assert Path("out/classes.txt").read_text().splitlines() == [
        "clapping",
        "empty",
        "riding a bike",
        "training dog",
    ]
    assert videos_of("out/train.csv") == [
        ("train/riding a bike/1.mp4", "2", "riding a bike"),
        ("train/training dog/it's 2.mp4", "3", "training dog"),
    ]
    val = Manifests(train="out/train.csv", val="out/val.csv").manifest("val")
    assert [(os.path.basename(entry.path), entry.label) for entry in val.entries] == [
        (" 7.webm", 0),
        ('"3", 4.mp4', 2),
        ("5\n6.avi", 3),
    ]
    assert all(os.path.exists(entry.path) for entry in val.entries)
    assert {row["codec"]: row["frames"] for row in table("out/val.csv")}["vp8"] == ""  # not in its header


def test_folders_without_splits_and_names_that_are_no_text(put, run, tmp_path, capsys):
    latin = os.fsdecode(b"caf\xe9")
    put(f"videos/{latin}/\udcff.mp4", "videos/bar/ok.mp4", "videos/loose.mp4", "videos/bar/line\rend.mp4")
    run("folders", "--split", "val", "--out", "videos", probe=True)
    # Below --out paths are relative, so that the folder can be moved.
    assert [row["path"] for row in table("videos/val.csv")] == ["bar/ok.mp4", f"{latin}/\udcff.mp4"]
    assert (tmp_path / "videos/classes.txt").read_bytes() == b"bar\ncaf\xe9\n"
    shutil.move("videos", "moved")
    entries = Manifests(val="moved/val.csv").manifest("val").entries
    assert all(os.path.exists(entry.path) for entry in entries)
    assert [(row["status"], row["path"].split("videos/")[-1]) for row in table("moved/problems.csv")] == [
        ("unreadable", "bar/line\\rend.mp4"),
        ("unlisted", "loose.mp4"),
    ]
    assert "problems.csv" in capsys.readouterr().out


def test_folders_are_read_as_training_reads_them(put, write, run):
    """Those of shared names, nested, linked, in other suffixes; what is left out is named."""
    put("videos/walk/a.mp4", "videos/walk/B.MP4", "videos/jump_high/in/deep/a.avi", "videos/jump high/b.webm")
    write("videos/walk/photo.jpg", b"")
    write("videos/walk/._a.mp4", b"")
    write("videos/README.md", b"")
    write("videos/loose.mp4", b"")
    os.makedirs("videos/empty class")
    os.symlink("../walk", "videos/jump high/link")  # what is in it comes first, and walk is no more
    run("folders")
    assert [row["path"].split("videos/")[1] for row in table("out/train.csv")] == [
        *("jump high/b.webm", "jump high/link/B.MP4", "jump high/link/a.mp4", "jump_high/in/deep/a.avi")
    ]
    os.unlink("videos/jump high/link")
    run("folders")
    tree = read_manifest("videos")
    made = read_manifest("out/train.csv")
    assert (made.entries, made.class_names) == (tree.entries, tree.class_names)
    assert tree.class_names == ["empty class", "jump high", "walk"]
    reasons = {row["path"].split("videos/")[1]: row["reason"] for row in table("out/problems.csv")}
    assert reasons == {
        "loose.mp4": "is left out: in no folder of a class",
        "walk/._a.mp4": "is left out: hidden",
        "walk/photo.jpg": "is left out: suffix .jpg",
    }


def test_a_listed_file_of_any_suffix_is_found(write, run):
    write("videos/a.rmvb", b"")
    write("train.txt", "a.rmvb 0\nb.rmvb 0\n")
    run("lists", "--train", "train.txt")
    assert [row["path"].split("/")[-1] for row in table("out/train.csv")] == ["a.rmvb"]
    assert problems() == [("missing", "train", "has no file")]


def test_no_cell_is_a_formula_and_what_is_read_again_is_as_it_was(put, run, tmp_path):
    put("videos/=1+1/@a.mp4", "videos/-2/b.mp4", "videos/+x/+c.mp4", "videos/'=y/d.mp4")
    run("folders", "--out", "videos")
    for cells in csv.reader((tmp_path / "videos/train.csv").open()):
        assert not any(cell.startswith(tuple("=+@")) for cell in cells), cells
    made, tree = read_manifest("videos/train.csv"), read_manifest("videos")
    assert made.class_names == tree.class_names == ["'=y", "+x", "-2", "=1+1"]
    assert [os.path.realpath(entry.path) for entry in made.entries] == [
        os.path.realpath(entry.path) for entry in tree.entries
    ]
    again = rows.read_rows(Path("videos/train.csv"))
    rows.write_rows(Path("videos/again.csv"), [row.cells for row in again])
    assert Path("videos/again.csv").read_bytes() == Path("videos/train.csv").read_bytes()


def test_an_out_that_cannot_be_written_is_refused_before_the_videos_are_opened(put, run, monkeypatch):
    put("videos/walk/a.mp4")
    Path("file").touch()
    monkeypatch.delattr("usable.run_all")
    with pytest.raises(UserError, match=r"--out \(file/x\) must be a folder that can be written: "):
        run("folders", "--out", "file/x", probe=True)


def test_the_command_line(tmp_path):
    def start(*options: str) -> subprocess.CompletedProcess[str]:
        code = (
            "import runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, sys.argv[0].rpartition('/')[0])\n"
            "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit as stop:\n"
            "    assert not {'torch', 'av', 'numpy'} & set(sys.modules)\n    raise stop"
        )
        return subprocess.run(
            [sys.executable, "-c", code, str(SCRIPT), *options], capture_output=True, text=True
        )

    result = start("--help")
    assert result.returncode == 0
    assert "python data_prep/make_manifest.py ucf101" in result.stdout
    assert start("kinetics", "--help").returncode == 0
    result = start(
        "folders", "--videos", str(tmp_path / "no\nne"), "--out", str(tmp_path), "--num_workers", "0"
    )
    assert (result.returncode, result.stderr.splitlines()[-1]) == (
        2,
        "make_manifest.py: argument --num_workers: (0) must be a whole number, 1 or more "
        "(see make_manifest.py folders --help)",
    )
    result = start("folders", "--videos", "no", "--out", str(tmp_path))
    assert result.returncode == 2
    assert result.stderr.endswith("make_manifest.py: --videos (no) must be a folder that exists\n")
