import pytest

from videonorm.data import Manifests
from videonorm.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.mp4").touch()
    return tmp_path


def write(path, *labels):
    rows = [f"a.mp4,{label},{i}" for i, label in enumerate(labels)]
    path.write_text("\n".join(["path,label,start_seconds", *rows]))
    return path


def test_training_settles_the_classes_of_all_splits(folder):
    source = Manifests(
        train=write(folder / "train.csv", "run", "jump", "sit"),
        val=write(folder / "val.csv", "sit"),
        test=write(folder / "test.csv", "run", "walk"),
    )
    source.prepare()
    assert source.class_names == ["jump", "run", "sit"]
    assert [e.label for e in source.manifest("train").entries] == [1, 0, 2]
    assert [e.label for e in source.manifest("val").entries] == [2]
    assert source.manifest("val").num_classes == 3
    with pytest.raises(UserError, match=r"test.csv line 3: label \(walk\) must be one of the 3 class names"):
        source.manifest("test")


def test_a_class_may_have_no_training_video(folder):
    train, val = write(folder / "train.csv", 0, 3), write(folder / "val.csv", 0, 4)
    source = Manifests(train=train, val=val)
    assert source.class_names is None
    assert [source.manifest(split).num_classes for split in ("train", "val")] == [4, 5]


def test_names_of_numbers_hold_for_all_splits(folder):
    def named(name, *rows):
        lines = [f"a.mp4,{label},{class_name},{i}" for i, (label, class_name) in enumerate(rows)]
        (folder / name).write_text("\n".join(["path,label,class_name,start_seconds", *lines]))
        return folder / name

    train, val = named("train.csv", (0, "jump"), (2, "sit")), named("val.csv", (1, "run"), (2, "sit"))
    source = Manifests(train=train, val=val, test=named("test.csv", (2, "stand")))
    assert source.class_names == ["jump", "1", "sit"]
    assert [e.label for e in source.manifest("val").entries] == [1, 2]
    with pytest.raises(
        UserError, match=r"test.csv line 2: class_name \(stand\) must be sit, which is class 2"
    ):
        source.manifest("test")
    last = named("last.csv", (3, "walk"))
    with pytest.raises(
        UserError, match=r"last.csv line 2: label \(3\) must be below 3, the number of classes"
    ):
        Manifests(train=train, val=last).manifest("val")
    (folder / "classes.txt").write_text("jump\nrun\nsit\nwalk\n")
    source = Manifests(train=train, val=last)
    assert source.class_names == ["jump", "run", "sit", "walk"]
    assert source.manifest("val").entries[0].label == 3


def test_only_the_test_split_may_have_no_labels(folder):
    unlabelled = write(folder / "unlabelled.csv", "", "")
    manifest = Manifests(train=write(folder / "train.csv", "run", "sit"), test=unlabelled).manifest("test")
    assert (manifest.labelled, manifest.class_names) == (False, ["run", "sit"])
    assert [entry.label for entry in manifest.entries] == [-1, -1]
    for split in ("train", "val"):
        with pytest.raises(
            UserError, match=r"unlabelled.csv\) must have labels; only videonorm predict takes"
        ):
            Manifests(**{split: unlabelled}).manifest(split)


def test_splits_and_names_that_are_not_given(folder):
    source = Manifests(test=write(folder / "test.csv", "sit"), class_names=["run", "sit"])
    assert source.manifest("train") is None
    assert source.manifest("test").entries[0].label == 1
    assert source.best_possible_top1(16, 4) is None
    assert Manifests().class_names is None


def test_one_file_for_all_splits(folder):
    path = folder / "all.csv"
    path.write_text("path,label,split,start_seconds\na.mp4,x,train,0\na.mp4,y,train,1\na.mp4,y,val,2\n")
    source = Manifests(train=path, val=path)
    assert [len(source.manifest(split).entries) for split in ("train", "val")] == [2, 1]
    assert source.manifest("val").entries[0].label == 1
