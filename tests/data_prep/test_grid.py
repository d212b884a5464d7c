"""data_prep/grid.py: words, their times and the split of the GRID corpus, on a few made videos."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import av
import grid
import grid_films
import numpy as np
import pytest
from grid_corpus import SplitRule, read_align
from grid_sentence import LETTERS, VOCABULARY, Word, class_names, stretch, words_of
from helpers import disk_that_fills, frames_of, kill_and_repeat, table

from videonorm.data import Manifests
from videonorm.errors import UserError

# As they are published.
ALIGN = """0 23750 sil
23750 29500 bin
29500 34000 blue
34000 35500 at
35500 41000 f
41000 47250 two
47250 53000 now
53000 74500 sil
"""
BOX = ("16", "8", "32", "24")


def align_of(sentence: str) -> str:
    """The times of ALIGN, and the words of a sentence."""
    text = ALIGN
    for old, new in zip(words_of("bbaf2n"), words_of(sentence), strict=True):
        text = text.replace(f" {old}\n", f" {new}\n")
    return text


@pytest.fixture(scope="session")
def recording(tmp_path_factory, make_video) -> Path:
    """75 frames of 64 x 48, 25 a second."""
    return make_video(tmp_path_factory.mktemp("grid") / "v.mp4", 75, height=48, width=64)


@pytest.fixture
def put(tmp_path, recording, monkeypatch):
    """``put("s1", "bbaf2n", ...)`` makes recordings, and their alignments in grid/align."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grid_films, "run_all", disk_that_fills(after=1000))  # in this process

    def make(speaker: str, *sentences: str, align_speaker: str = "") -> None:
        for sentence in sentences:
            video = Path("grid", speaker, f"{sentence}.mp4")
            align = Path("grid/align", align_speaker or speaker, f"{sentence}.align")
            for path in (video, align):
                path.parent.mkdir(parents=True, exist_ok=True)
            os.link(recording, video)
            align.write_text(align_of(sentence))

    return make


def run(*options: str) -> int:
    return grid.main(["--videos", "grid", "--out", "out", "--num_workers", "2", *options])


def cells(manifest: str, *names: str) -> list[tuple[str, ...]]:
    return [tuple(row[name] for name in names) for row in table(f"out/{manifest}.csv")]


def test_a_name_says_the_words():
    assert words_of("bbaf2n") == ["bin", "blue", "at", "f", "two", "now"]
    assert words_of("swwzzs") == ["set", "white", "with", "z", "zero", "soon"]
    assert [words_of(name) for name in ("bbaw2n", "bbaf0n", "bbaf2", "bbaf2nn", "", "s2_l_bbaf2n")] == [
        None
    ] * 6
    assert class_names("colour") == ["blue", "green", "red", "white"]
    assert len(class_names("letter")) == 25 and len(class_names("digit")) == 10


def test_sentences_of_five_letters_are_for_validation_and_the_classes_are_balanced():
    """A speaker says each colour, letter and digit together once: 1,000 sentences; the other words vary."""
    names = [
        "blps"[number % 4] + colour + "abiw"[number % 3] + letter + digit + "anps"[number % 4]
        for number, (colour, letter, digit) in enumerate(product("bgrw", LETTERS, VOCABULARY["digit"]))
    ]
    rule = SplitRule(set("dhmsx"), frozenset())
    splits = {name: rule.split_of("s1", name) for name in names}
    assert Counter(splits.values()) == {"train": 800, "val": 200}
    assert all((split == "val") == (name[3] in "dhmsx") for name, split in splits.items())
    for place, of_train, of_val in ((1, 200, 50), (4, 80, 20)):
        counts = Counter((split, name[place]) for name, split in splits.items())
        assert set(counts.values()) == {of_train, of_val}


def test_times_are_samples_of_25_kilohertz(tmp_path):
    (tmp_path / "a.align").write_text(ALIGN.replace("29500 34000", "29500 30000 sp\n30000 34000"))
    words = read_align(tmp_path / "a.align")
    assert [word.text for word in words] == words_of("bbaf2n")
    assert words[:2] == [Word("bin", 0.95, 1.18), Word("blue", 1.2, 1.36)]


@pytest.mark.parametrize(
    ("word", "margin", "least", "expected"),
    [
        ((1.64, 1.89), 0.2, 0.64, (1.44, 2.09)),
        ((1.18, 1.36), 0.2, 0.64, (0.95, 1.59)),  # grown on both sides alike
        ((1.18, 1.36), 0.2, 0.0, (0.98, 1.56)),
        ((0.05, 0.25), 0.2, 0.64, (0.0, 0.64)),  # where the video begins, to the other side
        ((0.1, 0.8), 0.2, 0.64, (0.0, 1.0)),
        ((2.8, 2.98), 0.2, 0.64, (2.36, 3.0)),
        ((1.0, 2.0), 0.0, 0.0, (1.0, 2.0)),
        ((1.0, 2.0), 0.0, 3.0, (0.0, 3.0)),
    ],
)
def test_stretch(word, margin, least, expected):
    assert stretch(Word("w", *word), margin, least) == pytest.approx(expected)


def test_files_where_they_are_a_manifest_for_each_word(put, capsys):
    put("s1", "bbaf2n", "lgbm3a")
    put("s2", "priazp", "swwx9s")
    assert run("--words", "colour", "digit") == 0
    names = ("label", "class_name", "split", "start_seconds", "end_seconds", "speaker", "sentence")
    assert cells("colour_train", *names) == [
        ("0", "blue", "train", "0.95", "1.59", "s1", "bbaf2n"),
        ("2", "red", "train", "0.95", "1.59", "s2", "priazp"),
    ]
    assert cells("digit_val", *names[:5]) == [
        ("7", "three", "val", "1.44", "2.09"),
        ("3", "nine", "val", "1.44", "2.09"),
    ]
    assert cells("colour_train", "frames", "width", "height", "codec") == [("75", "64", "48", "h264")] * 2
    assert table("out/problems.csv") == []
    source = Manifests(train="out/digit_train.csv", val="out/digit_val.csv")
    assert [entry.label for entry in source.manifest("val").entries] == [7, 3]
    assert all(os.path.exists(entry.path) for entry in source.manifest("train").entries)
    shown = " ".join(capsys.readouterr().out.split())
    assert "speakers in both splits: 2; scores say nothing of people never seen" in shown
    assert "colour: 4 classes, without a video to train on: green, white" in shown


def test_what_is_wrong_is_named(put, recording, capsys):
    put("s1", "bbaf2n", "bbam2n", "lgba1a", "lgbb1a", "lgbc1a", "lgbe1a", "lgbf1a", "lgbg1a")
    os.remove("grid/align/s1/lgba1a.align")
    os.remove("grid/s1/lgbb1a.mp4")
    Path("grid/align/s1/lgbc1a.align").write_text(align_of("lgbc2a"))
    Path("grid/align/s1/lgbe1a.align").write_text("0 23750 sil\n23750 bin\n")
    os.remove("grid/s1/lgbf1a.mp4")
    Path("grid/s1/lgbf1a.mp4").write_bytes(recording.read_bytes()[:3000])
    Path("grid/align/s1/lgbg1a.align").write_text(align_of("lgbg1a").replace(" 34000 ", " 34001 "))
    Path("grid/s1/more").mkdir()
    shutil.copy("grid/s1/bbaf2n.mp4", "grid/s1/more/bbaf2n.mp4")
    shutil.copy("grid/s1/bbaf2n.mp4", "grid/s1/intro.mp4")
    os.symlink("bbaf2n.mp4", "grid/s1/lgbi1a.mp4")  # no second recording
    Path("grid/s1/._bbaf2n.mp4").touch()
    assert run() == 0
    assert cells("colour_train", "sentence") == [("bbaf2n",)]
    found = {os.path.basename(row["path"]): row for row in table("out/problems.csv")}
    assert {name: row["status"] for name, row in found.items()} == {
        "intro.mp4": "unlisted",
        "bbaf2n.mp4": "duplicate",
        "lgba1a.mp4": "missing",
        "lgbb1a": "missing",
        "lgbc1a.mp4": "mismatch",
        "lgbe1a.mp4": "unreadable",
        "lgbf1a.mp4": "unreadable",
        "lgbg1a.mp4": "unreadable",
    }
    reason = found["lgbc1a.mp4"]["reason"]
    assert (
        reason
        == 'says "lay green by c two again" by its alignment, and "lay green by c one again" by its name'
    )
    assert found["lgba1a.mp4"]["reason"] == "has no alignment"
    assert found["lgbb1a"]["reason"] == "has an alignment and no file"
    line = "line 2: the line (23750 bin) must be start, end and a word, one after the other"
    assert found["lgbe1a.mp4"]["reason"].endswith(line)
    assert (found["lgbe1a.mp4"]["split"], found["intro.mp4"]["split"]) == ("train", "")
    shown = " ".join(capsys.readouterr().out.split())
    assert "problems, each with its reason: 8" in shown and "│ train │ 7 │ 1 │ 2 │ 3 │ 1 │" in shown


def test_a_video_that_ends_before_its_word_is_named(put, make_video):
    put("s1", "bbaf2n", "bbam2n", "lgba1a")
    os.remove("grid/s1/lgba1a.mp4")
    make_video(Path("grid/s1/lgba1a.mp4"), 40, height=48, width=64)
    run("--words", "colour")
    assert cells("colour_train", "sentence") == [("bbaf2n",), ("lgba1a",)]
    run("--words", "digit")
    assert cells("digit_train", "sentence") == [("bbaf2n",)]
    assert cells("problems", "reason") == [("ends at 1.6 s, before the digit does, at 1.89 s",)]


def test_cropped_and_encoded_and_kept(put, capsys):
    put("s1", "bbaf2n", "lgbm3a")
    assert run("--crop", *BOX) == 0
    assert cells("colour_train", "path", "width", "height") == [("videos/s1/bbaf2n.mp4", "32", "24")]
    before, after = frames_of("grid/s1/bbaf2n.mp4"), frames_of("out/videos/s1/bbaf2n.mp4")
    assert after.shape == (75, 24, 32, 3)
    assert np.abs(before[:, 8:32, 16:48].astype(int) - after).mean() < 4
    with av.open("out/videos/s1/bbaf2n.mp4") as container:
        assert len(container.streams) == 1
        keys = [i for i, packet in enumerate(container.demux()) if packet.size and packet.is_keyframe]
    assert keys[0] == 0 and max(np.diff(keys)) <= 12
    assert "2 files made, 0 kept from before, 0 failed" in capsys.readouterr().out
    whole = Path("out/colour_train.csv").read_text()
    run("--crop", *BOX)
    assert "0 files made, 2 kept from before" in capsys.readouterr().out
    assert Path("out/colour_train.csv").read_text() == whole
    run("--crop", "0", "0", "32", "24")
    assert "2 files made, 0 kept from before" in capsys.readouterr().out


def test_a_box_for_each_speaker(put):
    put("s1", "bbaf2n", "lgbm3a")
    put("s2", "pria9p")
    Path("boxes.csv").write_text("speaker,x,y,width,height\nS2,0,0,40,20\ns9,0,0,2,2\n")
    run("--crops", "boxes.csv", "--crop", *BOX)
    assert cells("colour_train", "speaker", "width", "height") == [("s1", "32", "24"), ("s2", "40", "20")]
    with pytest.raises(UserError, match=r"--crops \(boxes.csv\) must have speaker s1, or --crop give"):
        run("--crops", "boxes.csv")


def test_alignments_in_the_folder_of_another_speaker(put, capsys):
    """As in the copy of the corpus on Zenodo."""
    put("s5", "bbaf2n", "lgbm3a", "lgba3a", align_speaker="s6")
    put("s6", "pria9p", "swwxzs", align_speaker="s5")
    put("s7", "pria9p", "swwdzs")
    os.remove("grid/align/s7/pria9p.align")  # s5's folder has one of that name, which is no reason
    run()
    assert cells("colour_train", "speaker", "sentence") == [
        *(("s5", "bbaf2n"), ("s5", "lgba3a"), ("s6", "pria9p"))
    ]
    assert cells("problems", "status", "path") == [("missing", os.path.abspath("grid/s7/pria9p.mp4"))]
    note = "s5 has the alignments in folder s6: 3 of its 3 sentences are there, 0 in its own"
    assert note in " ".join(capsys.readouterr().out.split())


def test_split_by_sentence_and_speaker(put, capsys):
    for speaker in ("s1", "s2", "s10"):
        put(speaker, "bbaf2n", "lgbm3a", "swwxzs")
    run("--val_speakers", "S2", "--words", "digit")
    assert cells("digit_train", "speaker", "sentence") == [("s1", "bbaf2n"), ("s10", "bbaf2n")]
    assert cells("digit_val", "speaker", "sentence") == [("s2", "lgbm3a"), ("s2", "swwxzs")]
    shown = capsys.readouterr().out
    assert "videos in neither split, new by letter or by speaker alone: 5" in shown
    assert "in both splits" not in shown
    run("--val_speakers", "s2", "--val_letters", "--words", "letter")
    assert len(table("out/letter_train.csv")) == 6
    assert cells("letter_val", "class_name") == [("f",), ("m",), ("x",)]
    assert "sentences in both splits, of other speakers: 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--videos", "no"], "--videos (no) must be a folder that exists"),
        (["--alignments", "grid/s1"], "--alignments (grid/s1) must hold an alignment of at least one video"),
        (["--videos", "empty"], "--videos (empty) must hold videos called as their sentences are"),
        (["--words", "verb"], "argument --words: invalid choice: 'verb'"),
        (["--words", "letter"], "--words (letter) must not be split by letters"),
        (["--val_letters"], "--val_letters () must name letters, or --val_speakers speakers"),
        (["--val_letters", "q"], "--val_letters and --val_speakers must leave videos for training and for"),
        (["--val_speakers", "s9"], "--val_speakers (s9) must be a speaker of whom there are videos: s1"),
        (
            ["--margin_seconds", "-1"],
            "argument --margin_seconds: (-1) must be a number of seconds from 0 to 3",
        ),
        (["--crop", "0", "0", "31", "24"], "--crop: width (31) must be an even number of pixels, 2 or more"),
        (
            ["--crop", "40", "0", "32", "24"],
            "the box (40 0 32 24) of s1 must lie in the picture, which is 64",
        ),
        (["--crops", "no.csv"], "--crops (no.csv) must be a file that can be read"),
        (["--crops", "b.csv"], "b.csv line 3: speaker (s1) must be there once"),
        (["--crop", *BOX, "--out", "file"], "--out ("),
    ],
)
def test_mistakes(options, sentence, put):
    put("s1", "bbaf2n", "lgbm3a")
    Path("empty").mkdir()
    Path("file").touch()
    Path("b.csv").write_text("speaker,x,y,width,height\ns1,0,0,8,8\ns1,0,0,8,8\n")
    with pytest.raises(UserError) as error:
        run(*options)
    assert str(error.value).startswith(sentence)


def test_sources_are_never_overwritten(put):
    put("s1", "bbaf2n", "lgbm3a")
    Path("out").mkdir()
    Path("grid").rename("out/videos")
    with pytest.raises(UserError, match="must not hold the sources, such as"):
        run("--videos", "out/videos", "--crop", *BOX)


def test_what_was_made_before_the_disk_was_full_is_kept(put, monkeypatch, capsys):
    put("s1", "bbaf2n", "lgbm3a", "lgbb3a")
    monkeypatch.setattr(grid_films, "run_all", disk_that_fills(after=1))
    with pytest.raises(UserError, match="must be a folder to write in, with room: No space left on device"):
        run("--crop", *BOX)
    assert not Path("out/colour_train.csv").exists()
    monkeypatch.setattr(grid_films, "run_all", disk_that_fills(after=1000))
    run("--crop", *BOX)
    assert "2 files made, 1 kept from before, 0 failed" in capsys.readouterr().out


def test_help_is_light():
    command = [sys.executable, "-X", "importtime", grid.__file__, "--help"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "examples:" in listed.stdout and "torch" not in listed.stderr


@pytest.mark.slow
def test_killed_half_way_and_run_again(put, tmp_path, monkeypatch):
    sentences = [f"bba{letter}{digit}n" for letter in "fm" for digit in "123456789z"]
    put("s1", *sentences)
    arguments = ["--videos", "grid", "--out", "out", "--crop", *BOX, "--num_workers", "1"]
    half_way = Path("out/videos/s1/bbaf5n.mp4").exists
    kill_and_repeat(grid.__file__, arguments, half_way, tmp_path / "out")
    assert run("--crop", *BOX, "--out", "whole") == 0
    for name in ("colour_train.csv", "colour_val.csv", "problems.csv"):
        assert Path("out", name).read_text() == Path("whole", name).read_text()
    assert not list(Path("out").glob(".unfinished"))
