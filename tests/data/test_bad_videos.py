import csv
import warnings

import pytest

from videonorm.data import BadVideo, BadVideos
from videonorm.errors import UserError


def test_each_path_is_kept_once_with_its_first_reason(tmp_path):
    bad = BadVideos()
    assert bad.add("train", [BadVideo("/v/a.mp4", "is empty"), BadVideo("/v/b, c.mp4", "is truncated")])
    assert not bad.add("train", [BadVideo("/v/a.mp4", "cannot be found")])
    assert bad.add("val", [BadVideo("/v/a.mp4", "is empty")])
    assert (bad.count("train"), bad.count("val"), bad.count("test"), len(bad)) == (2, 1, 0, 3)
    bad.write(tmp_path / "run" / "bad_videos.csv")
    with open(tmp_path / "run" / "bad_videos.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"path": "/v/a.mp4", "reason": "is empty", "split": "train"},
            {"path": "/v/b, c.mp4", "reason": "is truncated", "split": "train"},
            {"path": "/v/a.mp4", "reason": "is empty", "split": "val"},
        ]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["bad_videos.csv"]


def test_too_many_are_an_error_that_lists_ten():
    bad = BadVideos()
    bad.add("train", [BadVideo(f"/v/{i}.mp4", "is empty") for i in range(12)])
    bad.check("train", num_videos=240, max_bad_fraction=0.05)
    bad.check("val", num_videos=10, max_bad_fraction=0.0)
    with pytest.raises(UserError) as caught:
        bad.check("train", num_videos=239, max_bad_fraction=0.05)
    listed = "; ".join(f"/v/{i}.mp4 is empty" for i in range(10))
    assert str(caught.value) == (
        "max_bad_fraction (0.05) must cover the train videos that cannot be used, "
        f"which are 12 of 239: {listed}"
    )


def test_each_is_said_once():
    bad = BadVideos()

    def said(split):
        with warnings.catch_warnings(record=True) as caught:
            bad.warn_of_new(split)
        return [str(warning.message) for warning in caught]

    assert said("train") == []
    bad.add("train", [BadVideo(f"/v/{i}.mp4", "is empty") for i in range(2)])
    assert said("train") == [
        "train videos that cannot be used: 2, and others take their places: /v/0.mp4 is empty, "
        "/v/1.mp4 is empty"
    ]
    bad.add("train", [BadVideo(f"/v/{i}.mp4", "is empty") for i in range(6)])
    assert said("train")[0].endswith(": /v/2.mp4 is empty, /v/3.mp4 is empty, /v/4.mp4 is empty and 1 more")
    bad.add("val", [BadVideo("/v/0.mp4", "is empty")])
    assert said("val") == ["val videos that cannot be used: 1, and they have no scores: /v/0.mp4 is empty"]
    assert said("train") == said("val") == []


def test_no_cell_is_a_formula(tmp_path):
    bad = BadVideos()
    bad.add("=cmd", [BadVideo("@a.mp4", "is empty")])
    bad.write(tmp_path / "bad_videos.csv")
    assert (tmp_path / "bad_videos.csv").read_text().splitlines()[1] == "'@a.mp4,is empty,'=cmd"


def test_the_file_is_the_same_in_whatever_order_they_were_met(tmp_path):
    met = [("val", "b.mp4"), ("train", "c.mp4"), ("val", "a.mp4")]
    for name, order in (("one.csv", met), ("other.csv", met[::-1])):
        bad = BadVideos()
        for split, path in order:
            bad.add(split, [BadVideo(path, "is empty")])
        bad.write(tmp_path / name)
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "other.csv").read_text()
