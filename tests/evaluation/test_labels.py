"""Labels that are not those of the network's training: each is the right one, or is refused by name."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from videonorm.data.clip_spec import ClipSpec
from videonorm.errors import UserError
from videonorm.evaluation import artifact, views
from videonorm.evaluation.evaluate import evaluate_artifact

NAMES = ["left", "right", "still"]
Labels = Callable[[Path, list[str] | None], dict[str, int]]


class Scored(Exception):
    """Instead of the videos' scores: what counts here is their labels."""


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> Labels:
    """Call it with a manifest, and the class names of a network of three classes, for each video's label."""

    def score(artifact: object, manifest: Any, *_: object, **__: object) -> None:
        raise Scored({Path(entry.path).stem: entry.label for entry in manifest.entries})

    def read(data: Path, class_names: list[str] | None) -> dict[str, int]:
        clips = ClipSpec(4, 1, 32, None, [0.45] * 3, [0.225] * 3, "linspace", "loop")
        network = artifact.Artifact(lambda clips: clips, artifact.Card({}, clips, 3, class_names))
        monkeypatch.setattr(artifact, "load_artifact", lambda *_: network)
        monkeypatch.setattr(views, "score_videos", score)
        with pytest.raises(Scored) as scored:
            evaluate_artifact(Path("artifact"), data, device="cpu")
        found: dict[str, int] = scored.value.args[0]
        return found

    return read


def csv(folder: Path, text: str) -> Path:
    for name in "abc":
        (folder / f"{name}.mp4").touch()
    (folder / "test.csv").write_text(text)
    return folder / "test.csv"


def tree(folder: Path, *classes: str) -> Path:
    for name in classes:
        (folder / "tree" / name).mkdir(parents=True)
        (folder / "tree" / name / f"of_{name}.mp4").touch()
    return folder / "tree"


def test_a_tree_that_lacks_a_class(labels: Labels, tmp_path: Path) -> None:
    assert labels(tree(tmp_path, "left", "still"), NAMES) == {"of_left": 0, "of_still": 2}


def test_names_in_another_order(labels: Labels, tmp_path: Path) -> None:
    text = "path,label\na.mp4,still\nb.mp4,left\nc.mp4,right\n"
    assert labels(csv(tmp_path, text), ["right", "still", "left"]) == {"a": 1, "b": 2, "c": 0}


def test_a_class_of_another_name_and_one_class_more(labels: Labels, tmp_path: Path) -> None:
    for name in ("upright", "Left", "stil"):
        with pytest.raises(UserError, match=rf"label \({name}\) must be one of the 3 class names"):
            labels(csv(tmp_path, f"path,label\na.mp4,left\nb.mp4,{name}\n"), NAMES)
    with pytest.raises(UserError, match=r"label \(up\) must be one of the 3 class names"):
        labels(tree(tmp_path, *NAMES, "up"), NAMES)


def test_numbers_of_another_order_beside_their_names(labels: Labels, tmp_path: Path) -> None:
    text = "path,label,class_name\na.mp4,0,left\nb.mp4,2,right\n"
    with pytest.raises(UserError, match=r"line 3: class_name \(right\) must be still, which is class 2"):
        labels(csv(tmp_path, text), NAMES)


def test_numbers_from_1(labels: Labels, tmp_path: Path) -> None:
    """Beyond the last class they are refused; below it they may be right, so that it is said."""
    with pytest.raises(UserError, match=r"line 4: label \(3\) must be below 3, the number of classes"):
        labels(csv(tmp_path, "path,label\na.mp4,1\nb.mp4,2\nc.mp4,3\n"), NAMES)
    for names in (NAMES, None):
        with pytest.warns(UserWarning, match=r"labels count from 0, and the smallest in .*test.csv is 1"):
            assert labels(csv(tmp_path, "path,label\na.mp4,1\nb.mp4,2\n"), names) == {"a": 1, "b": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert labels(csv(tmp_path, "path,label\na.mp4,right\nb.mp4,still\n"), NAMES) == {"a": 1, "b": 2}


def test_names_for_a_network_that_has_none(labels: Labels, tmp_path: Path) -> None:
    """In which order it has learnt them nobody knows, however many there are."""
    with pytest.raises(UserError, match=r"label \((left|right|still)\) must be one of"):
        labels(tree(tmp_path, *NAMES), None)
    with pytest.raises(UserError, match=r"label \(up\) must be one of"):
        labels(csv(tmp_path, "path,label\na.mp4,up\n"), None)
    text = "path,label,class_name\na.mp4,2,still\nb.mp4,0,left\n"
    assert labels(csv(tmp_path, text), None) == {"a": 2, "b": 0}
