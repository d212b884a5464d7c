"""What is no manifest, and paths that do not start where they are looked for."""

from pathlib import Path

import pytest

from videonorm.data.manifest import read_manifest
from videonorm.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    return tmp_path


def write(folder: Path, text: str) -> Path:
    (folder / "m.csv").write_text(text)
    return folder / "m.csv"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.mp4", b"\0\0\0\x20ftypisom", "and is a video by its name"),
        ("A.MKV", b"", "must be a CSV file, a list, or a folder with a folder of videos .*, and is a video"),
        ("m.xlsx", b"PK\3\4rest", "and is a spreadsheet or another zip archive: save it as CSV"),
        ("m.csv.gz", b"\x1f\x8b\x08\0", "and is compressed: unpack it"),
        ("m.parquet", b"PAR1\0", "and is Parquet: save it as CSV"),
        ("m.csv", "path,label\n".encode("utf-16"), "and is in UTF-16: save it in UTF-8"),
        ("weights.bin", b"abc\0", "must be text in UTF-8, and holds a zero byte"),
        ("m.json", b'\n[{"path": "a.mp4", "label": 0}]', "must be a CSV file or a list, and is JSON"),
        ("classes.json", b'{"run": 0}', "must be a CSV file or a list, and is JSON"),
    ],
)
def test_a_file_that_is_no_manifest(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"manifest \(.*{name}\) .*{message}") as caught:
        read_manifest(folder / name)
    assert "\n" not in str(caught.value)


def test_a_name_may_begin_as_json_does(folder):
    (folder / "[a] b.mp4").touch()
    assert read_manifest(write(folder, "[a] b.mp4 1\n")).entries == [(f"{folder}/[a] b.mp4", 1, None, None)]


def test_gigabytes_of_something_else_are_not_read(folder):
    with open(folder / "model.bin", "wb") as file:
        file.truncate(10**12)
    with pytest.raises(UserError, match="holds a zero byte"):
        read_manifest(folder / "model.bin")


def test_where_paths_start_is_said_if_it_is_not_at_the_root(folder, monkeypatch):
    path = write(folder, "path,label\na.mp4,0\nb.mp4,1\n")
    with pytest.raises(UserError) as caught:
        read_manifest(path, root="data/kinetics400")
    assert str(caught.value) == (
        f"root ({Path.cwd()}/data/kinetics400) must be where the paths in {path} start: there is no "
        f"{Path.cwd()}/data/kinetics400/a.mp4; they start beside the manifest: leave root out "
        "(videonorm fit: --data.source.root null)"
    )
    (folder / "lists").mkdir()
    path = write(folder / "lists", "path,label\na.mp4,0\n")
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=r"; they start in the current folder, as they do with root \.$"):
        read_manifest(path)
    assert read_manifest(path, root=".").entries[0].path == str(folder / "a.mp4")
    with pytest.raises(UserError, match=r"there is no .*/x/a.mp4; they start in the current folder"):
        read_manifest(path, root="x")
