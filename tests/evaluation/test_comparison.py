"""Two tests of the same videos, whose truth is known; and what earlier evaluations have left."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from videonorm.data import Entries, Entry, Manifest
from videonorm.errors import UserError
from videonorm.evaluation.certainty import top1_estimate
from videonorm.evaluation.comparison import compare_top1
from videonorm.evaluation.confusion import confusion_matrix, confusion_picture, write_classes
from videonorm.evaluation.score_table import Top1, read_top1, write_scores
from videonorm.evaluation.scores import VideoScores

VIEWS = {"num_frames": 4, "frame_stride": 2, "num_clips": 10, "num_crops": 3}
NAMES = ["left", "right", "still"]


def manifest_of(num_videos: int, root: str = "/data") -> Manifest:
    """Labels 0 1 2 0 1 2 ...; the first two are stretches of one video."""
    stretches = {0: (None, 2.5), 1: (2.5, None)}
    entries = [
        Entry(f"{root}/{'a' if row < 2 else row}.mp4", row % 3, *stretches.get(row, (None, None)))
        for row in range(num_videos)
    ]
    return Manifest(Path("test.csv"), Entries.of(entries), 3)


def scores_of(predicted: list[int]) -> VideoScores:
    """Of videos with labels 0 1 2 0 1 2 ..., each with some class first."""
    scores = VideoScores(len(predicted), 3)
    logits = 3 * torch.eye(3)[predicted] + torch.tensor([0.2, 0.1, 0.0])
    rows = torch.arange(len(predicted))
    scores.add(rows, rows % 3, logits[:, None])
    return scores


@pytest.fixture
def tests() -> tuple[Manifest, VideoScores, VideoScores]:
    """One that errs on every tenth of 60 videos, and one with some of the scores swapped."""
    first = [(row + (row % 10 == 0)) % 3 for row in range(60)]
    second = first.copy()
    for row in range(1, 59, 7):
        second[row], second[row + 1] = first[row + 1], first[row]
    second[20], second[40], second[30] = first[40], first[30], first[20]  # which are their labels
    return manifest_of(60), scores_of(first), scores_of(second)


def test_the_p_value_is_mcnemars_and_the_videos_are_named(
    tests: tuple[Manifest, VideoScores, VideoScores],
) -> None:
    manifest, first, second = tests
    found = compare_top1(Top1.of(manifest, first), Top1.of(manifest, second), "second")
    right = [scores.within(1).bool().tolist() for scores in (first, second)]
    only = [[row for row in range(60) if one[row] > other[row]] for one, other in (right, right[::-1])]
    assert len(only[0]) >= 12 and only[1] == [20, 30, 40]
    table = [[0, len(only[0])], [len(only[1]), 0]]
    record = found.record()
    assert record["p_value"] == mcnemar(table, exact=True).pvalue
    assert record["p_value"] == pytest.approx(stats.binomtest(len(only[0]), sum(map(sum, table))).pvalue)
    assert record["difference"] == pytest.approx((len(only[0]) - len(only[1])) / 60)
    assert record["interval"][0] < record["difference"] < record["interval"][1]
    assert (record["top1"], record["its_top1"]) == pytest.approx([sum(of) / 60 for of in right])

    def named(rows: list[int]) -> list[str]:
        stretch = {0: "a.mp4 (0 to 2.5 s)", 1: "a.mp4 (2.5 to inf s)"}
        return [f"/data/{stretch.get(row, f'{row}.mp4')}" for row in rows]

    assert record["only_this"] == named(only[0]) and record["only_that"] == named(only[1])
    assert f"only this gets {len(only[0])} videos right: /data/a.mp4 (2.5 to inf s), " in str(found)
    same = compare_top1(Top1.of(manifest, first), Top1.of(manifest, first), "first").record()
    assert (same["difference"], same["p_value"], same["only_this"]) == (0, 1, [])
    assert same["interval"][0] < 0 < same["interval"][1]


def test_earlier_results_are_read_back(
    tests: tuple[Manifest, VideoScores, VideoScores], tmp_path: Path
) -> None:
    from videonorm.evaluation.evaluation import video_records

    manifest, first, second = tests
    second._facts[5, 3] = 0  # a bad video
    second.probabilities[6] = torch.tensor([0.4, 0.4, 0.2])
    wanted = Top1.of(manifest, second)
    assert len(wanted.paths) == 59 and wanted.top1[5] == 0.5  # of the seventh video, whose class is 0
    write_scores(tmp_path / "second.scores.npz", manifest, second, VIEWS)
    rows = video_records(manifest, second, all_scores=False)
    (tmp_path / "second.json").write_text(json.dumps({"videos": rows}))
    for name in ("second.scores.npz", "second.json"):
        assert read_top1(tmp_path / name) == wanted
    with np.load(tmp_path / "second.scores.npz", allow_pickle=False) as table:
        assert {name: table[name].tolist() for name in VIEWS} == {name: [of] for name, of in VIEWS.items()}
        assert np.isnan(table["top1"][0, 5]) and table["probabilities"].shape == (60, 3)
    record = compare_top1(Top1.of(manifest, first), wanted, "second").record()
    assert record["videos"] == 59 and "/data/6.mp4" in record["only_this"]


def test_videos_are_the_same_wherever_they_are(tests: tuple[Manifest, VideoScores, VideoScores]) -> None:
    _, first, second = tests
    here, there = manifest_of(60), manifest_of(60, "https://host/videos")
    moved = compare_top1(Top1.of(here, first), Top1.of(there, second), "second")
    assert moved == compare_top1(Top1.of(here, first), Top1.of(here, second), "second")


def test_what_cannot_be_compared(tests: tuple[Manifest, VideoScores, VideoScores], tmp_path: Path) -> None:
    manifest, first, _ = tests
    ours = Top1.of(manifest, first)
    with pytest.raises(
        UserError, match=r"compare \(b\) must have scores of the same videos, and has none of"
    ):
        compare_top1(ours, Top1(["/data/x.mp4"], [0], [1.0], ["x"]), "b")
    with pytest.raises(UserError, match=r"must have the same labels, and has 1 instead of 2 for /data/5.mp4"):
        compare_top1(ours, Top1(["/data/5.mp4"], [1], [1.0], ["x"]), "b")

    def refused(name: str, content: bytes, why: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=why):
            read_top1(tmp_path / name)

    with pytest.raises(UserError, match=r"compare \(.*none.npz\) must be a file that can be read"):
        read_top1(tmp_path / "none.npz")
    not_scores = r"compare \(.*\) must hold the scores of an evaluation"
    refused("no.npz", b"PK\x03\x04 no more", not_scores)
    refused("empty.npz", b"", not_scores)
    refused("text.json", b"[1, 2", not_scores)
    refused("other.json", b'{"top1": 0.5}', not_scores)
    refused("list.json", b'{"videos": [3]}', not_scores)
    refused("none.json", b'{"videos": []}', r"must hold the score of at least one video")
    objects: Any = np.array([{"code": 1}])
    np.savez(tmp_path / "objects.npz", path=objects, label=objects, top1=objects)
    refused("objects.npz", (tmp_path / "objects.npz").read_bytes(), not_scores)


def test_the_interval_is_scipys_bootstrap() -> None:
    scores = scores_of([(row + (row % 10 == 0)) % 3 for row in range(60)])
    estimate = top1_estimate(scores)
    wanted = stats.bootstrap(
        (scores.within(1).numpy(),),
        np.mean,
        method="percentile",
        n_resamples=2000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert estimate.value == pytest.approx(0.9)
    assert (estimate.low, estimate.high) == pytest.approx((wanted.low, wanted.high))
    certain = top1_estimate(scores_of([row % 3 for row in range(60)]))  # Wilson's, for all are right
    assert certain.value == certain.high == pytest.approx(1) and certain.low == pytest.approx(0.94, abs=0.01)


def test_what_is_taken_for_what(tmp_path: Path) -> None:
    scores = scores_of([0, 1, 0, 1, 1, 2])
    matrix = confusion_matrix(scores)
    assert matrix.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    write_classes(tmp_path / "classes.csv", scores, NAMES)
    rows = (tmp_path / "classes.csv").read_text().split()
    assert rows[0] == "label,name,videos,top1,top5,taken,mistaken_for,mistaken"
    assert rows[1:] == [
        "0,left,2,0.5,1.0,2,right,1",
        "1,right,2,1.0,1.0,3,,0",
        "2,still,2,0.5,1.0,1,left,1",
    ]
    (axes, _) = confusion_picture(matrix, NAMES).axes
    assert [text.get_text() for text in axes.texts] == ["50", "50", "0", "0", "100", "0", "50", "0", "50"]
    assert [label.get_text() for label in axes.get_yticklabels()] == NAMES
    many = confusion_picture(torch.eye(400, dtype=torch.int64), list(map(str, range(400)))).axes[0]
    assert not many.texts and not many.get_xticklabels()
