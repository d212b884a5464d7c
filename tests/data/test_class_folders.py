"""Trees as people have them: nested, linked, with other files among the videos, with an empty class."""

import os
import shutil
import warnings
from pathlib import Path

import pytest

from videonorm.data.class_folders import read_class_folders
from videonorm.data.manifest import read_manifest
from videonorm.errors import UserError


@pytest.fixture
def tree(tmp_path):
    """``tree("a/b.mp4", "c/")`` makes files and folders, and returns the root."""

    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                (tmp_path / "tree" / name).mkdir(exist_ok=True)
            else:
                (tmp_path / "tree" / name).touch()
        return tmp_path / "tree"

    return make


def listed(root, **options):
    manifest = read_manifest(root, **options)
    return [(os.path.relpath(entry.path, root), entry.label) for entry in manifest.entries]


def test_nested_folders_and_gif_are_read_and_the_rest_is_counted(tree):
    root = tree(
        *("walk/a.mp4", "walk/B UPPER.MP4", "walk/g.gif", "walk/photo.jpg", "walk/Thumbs.db"),
        *("walk/.DS_Store", "walk/._a.mp4", "walk/notes.txt", "walk/LICENSE", ".DS_Store", "README.md"),
        *("tänzer/日本.mkv", "tänzer/nested/n2.mp4", "tänzer/nested/deeper/n1.mp4", "tänzer/.thumbs/t.mp4"),
        *("jump high/a.mp4", "empty class/", "loose.mp4"),
    )
    with pytest.warns(UserWarning) as caught:
        manifest = read_manifest(root)
    assert [str(warning.message) for warning in caught] == [
        f"{root}: files left out (hidden: 1, in no folder of a class: 1, suffix .db: 1, suffix .jpg: 1, "
        "suffix .txt: 1, suffix missing: 1), the first of them loose.mp4; "
        "classes without a video, which keep their labels: empty class"
    ]
    assert manifest.class_names == ["empty class", "jump high", "tänzer", "walk"]
    assert [(os.path.relpath(entry.path, root), entry.label) for entry in manifest.entries] == [
        ("jump high/a.mp4", 1),
        *(("tänzer/nested/deeper/n1.mp4", 2), ("tänzer/nested/n2.mp4", 2), ("tänzer/日本.mkv", 2)),
        *(("walk/B UPPER.MP4", 3), ("walk/a.mp4", 3), ("walk/g.gif", 3)),
    ]


@pytest.mark.parametrize("name", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_of_several_processes_one_speaks(tree, name, monkeypatch):
    root = tree("walk/a.mp4", "walk/photo.jpg", "run/")
    monkeypatch.setenv(name, "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_manifest(root)
    monkeypatch.setenv(name, "0")
    with pytest.warns(UserWarning, match=r"suffix .jpg: 1"):
        read_manifest(root)


def test_classes_of_the_model_are_not_said_a_second_time(tree):
    with pytest.warns(UserWarning, match="keep their labels: sit$"):
        manifest = read_manifest(tree("run/1.mp4", "sit/"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manifest.warn_of_empty_classes(2)
    with pytest.warns(UserWarning, match=r"2 of 3 \(num_classes\), 1 \(sit\), 2$"):
        manifest.warn_of_empty_classes(3)
    shutil.rmtree(manifest.path / "sit")
    manifest = read_manifest(manifest.path, class_names=["run", "sit"])  # those of a network
    with pytest.warns(UserWarning, match=r"1 of 2 \(num_classes\), 1 \(sit\)$"):
        manifest.warn_of_empty_classes(2)


def test_the_same_file_name_in_two_classes_is_two_videos(tree):
    assert listed(tree("b/1.mp4", "a/1.mp4")) == [("a/1.mp4", 0), ("b/1.mp4", 1)]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_folders_of_splits(tree, split):
    root = tree("train/run/1.mp4", "train/jump/2.mp4", "Validation/run/3.mp4", "test/sit/4.mp4")
    expected = {
        "train": [("train/jump/2.mp4", 0), ("train/run/1.mp4", 1)],
        "val": [("Validation/run/3.mp4", 1)],
        "test": [("test/sit/4.mp4", 2)],
    }
    assert listed(root, split=split) == expected[split]  # of the classes of all splits
    assert len(listed(root)) == 4
    with pytest.warns(UserWarning, match=r"files left out \(in no folder of a class: 2\)"):
        assert listed(tree("train/loose.mp4", "more/run/1.mp4"), split=split) == expected[split]


def test_a_class_may_be_called_as_a_split(tree):
    assert listed(tree("test/1.mp4", "walk/2.mp4")) == [("test/1.mp4", 0), ("walk/2.mp4", 1)]
    assert listed(tree("test/further/3.mp4"))[:2] == [("test/1.mp4", 0), ("test/further/3.mp4", 0)]


def test_links_are_followed_but_not_up(tree, tmp_path):
    root = tree("walk/1.mp4", "jump/")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "2.mp4").touch()
    (root / "jump" / "there").symlink_to(tmp_path / "elsewhere")
    (root / "walk" / "up").symlink_to("..")
    (root / "walk" / "further up").symlink_to(tmp_path)
    (root / "walk" / "itself").symlink_to("itself")
    assert [video.path for video in read_class_folders(root).videos] == ["jump/there/2.mp4", "walk/1.mp4"]
    (root / "jump" / "3.mp4").symlink_to("../walk/1.mp4")
    with pytest.raises(UserError, match=r"must hold a video once, and walk/1.mp4 is jump/3.mp4 too"):
        read_manifest(root)


def test_blanks_and_underscores_are_one_spelling(tree):
    root = tree("train/ride_bike/1.mp4", "train/rid/2.mp4", "val/ride bike/3.mp4")
    assert read_class_folders(root).class_names == ["rid", "ride bike"]
    assert listed(root / "train", class_names=["ride bike", "rid"]) == [
        ("rid/2.mp4", 1),
        ("ride_bike/1.mp4", 0),
    ]


def test_a_root_that_is_a_level_too_high(tree):
    root = tree("videos/run/1.mp4", "videos/sit/2.mp4", "train.csv")
    with pytest.raises(UserError, match=r"must hold a folder for each class, and holds one, videos,"):
        read_manifest(root)
    assert listed(root / "videos") == [("run/1.mp4", 0), ("sit/2.mp4", 1)]
    root = tree("videos_2/sit/2.mp4")
    with pytest.warns(UserWarning, match=r"no video is right in the folder .*, of videos, videos_2$"):
        assert len(listed(root)) == 3


def test_a_folder_that_cannot_be_used(tree, monkeypatch):
    root = tree("walk/photo.jpg", "walk/photo2.jpg", "jump/deep/")
    with pytest.raises(UserError, match=r"tree\) must hold a folder .*; files left out \(suffix .jpg: 2\)"):
        read_manifest(root)
    with pytest.raises(UserError, match=r"or be a file; it holds train.csv; files left out"):
        read_manifest(tree("train.csv", "val.csv"))

    def refuse(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"folder \(.*tree\) must be readable: Permission denied"):
        read_manifest(root)
