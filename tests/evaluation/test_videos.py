from pathlib import Path

import pytest

from videonorm.errors import UserError
from videonorm.evaluation.videos import as_manifest, find_videos


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a.mp4", "b/c.MKV", "b/d/e.avi", "b/notes.txt", "b/.hidden.mp4", ".cache/f.mp4", "g[1].mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["b"], ["b/c.MKV", "b/d/e.avi"]),
        (["*.mp4"], ["a.mp4", "g[1].mp4"]),
        (["**/*.avi"], ["b/d/e.avi"]),
        (["b/*"], ["b/c.MKV", "b/d/e.avi"]),  # what it matches may be a folder; notes are no video
        (["g[1].mp4"], ["g[1].mp4"]),  # a name that could be a pattern
        (["b/notes.txt", "gone.mp4"], ["b/notes.txt", "gone.mp4"]),  # by name: opening it says what it is
        (["https://host/v?id=[1]*", "a.mp4", "*.mp4"], ["https://host/v?id=[1]*", "a.mp4", "g[1].mp4"]),
    ],
)
def test_what_names_stand_for(tree: Path, given: list[str], found: list[str]) -> None:
    assert find_videos(given) == found


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("empty", r"video \(empty\) must be a folder with videos in it, and it holds none"),
        ("*.webm", r"video \(\*\.webm\) must match at least one video file, and matches none"),
    ],
)
def test_nothing_found(tree: Path, given: str, sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{sentence}$"):
        find_videos(["a.mp4", given])


def test_the_manifest_of_them_has_no_labels() -> None:
    manifest = as_manifest(["a.mp4", "https://host/b.mp4"], 3)
    assert [entry.path for entry in manifest.entries] == ["a.mp4", "https://host/b.mp4"]
    assert not manifest.labelled
