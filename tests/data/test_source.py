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


def test_numbers_are_bounded_by_training(folder):
    train, val = write(folder / "train.csv", 0, 3), write(folder / "val.csv", 0, 4)
    source = Manifests(train=train, val=val)
    assert (source.class_names, source.manifest("train").num_classes) == (None, 4)
    with pytest.raises(
        UserError, match=r"val.csv line 3: label \(4\) must be below 4, the number of classes"
    ):
        source.manifest("val")
    assert Manifests(val=val, test=train).manifest("test").num_classes == 4


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
