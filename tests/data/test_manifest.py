from pathlib import Path

import pytest

from videonorm.data.manifest import Entry, read_manifest
from videonorm.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("a.mp4", "b.mp4", "c d.mp4"):
        (tmp_path / name).touch()
    return tmp_path


def write(folder: Path, text: str, name: str = "m.csv") -> Path:
    (folder / name).write_bytes(text.encode())
    return folder / name


def test_csv_with_numbers(folder):
    manifest = read_manifest(
        write(folder, "path,label,start_seconds,end_seconds\na.mp4,2,,\nc d.mp4,0,1.5,4\n")
    )
    assert manifest.entries == [
        Entry(str(folder / "a.mp4"), 2),
        Entry(str(folder / "c d.mp4"), 0, 1.5, 4.0),
    ]
    assert (manifest.num_classes, manifest.class_names) == (3, None)


def test_csv_as_spreadsheets_write_it(folder):
    text = '\ufefflabel,path,source\r\n"swing, golf",a.mp4,x\r\n\r\njog,"c d.mp4",y\r\n'
    manifest = read_manifest(write(folder, text))
    assert manifest.class_names == ["jog", "swing, golf"]
    assert [(Path(e.path).name, e.label) for e in manifest.entries] == [("a.mp4", 1), ("c d.mp4", 0)]


def test_absolute_paths_and_root(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists")
    manifest = read_manifest(write(elsewhere, f"path,label\na.mp4,0\n{folder}/b.mp4,1\n"), root=folder)
    assert [e.path for e in manifest.entries] == [str(folder / "a.mp4"), str(folder / "b.mp4")]


@pytest.mark.parametrize("name", ["list.txt", "train.csv"])
def test_list_separated_by_blanks(name, folder):
    manifest = read_manifest(write(folder, "\ufeffa.mp4 1\r\nc d.mp4 0\r\nb.mp4\t1\r\n", name))
    assert [(Path(e.path).name, e.label) for e in manifest.entries] == [
        ("a.mp4", 1),
        ("c d.mp4", 0),
        ("b.mp4", 1),
    ]


def test_folder_for_each_class(tmp_path):
    for name in ("walk/2.MP4", "walk/1.webm", "jump/3.avi", "jump/notes.txt", "jump/._3.avi", "empty/.keep"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    manifest = read_manifest(tmp_path)
    assert manifest.class_names == ["empty", "jump", "walk"]
    assert manifest.entries == [
        Entry(str(tmp_path / "jump/3.avi"), 1),
        Entry(str(tmp_path / "walk/1.webm"), 2),
        Entry(str(tmp_path / "walk/2.MP4"), 2),
    ]


def test_classes_that_are_called_numbers(tmp_path):
    for name in ("2/a.mp4", "10/b.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    manifest = read_manifest(tmp_path)
    assert [(manifest.class_names[e.label], Path(e.path).name) for e in manifest.entries] == [
        ("10", "b.mp4"),
        ("2", "a.mp4"),
    ]


def test_column_split(folder):
    path = write(folder, "path,label,split\na.mp4,0,train\nb.mp4,1,val\n")
    assert [Path(e.path).name for e in read_manifest(path, split="val").entries] == ["b.mp4"]
    assert len(read_manifest(path).entries) == 2
    with pytest.raises(UserError, match=r"m.csv\) must list at least one video of split test"):
        read_manifest(path, split="test")


def test_given_classes_settle_the_order(folder):
    path = write(folder, "path,label\na.mp4,run\nb.mp4,jump\n")
    assert [e.label for e in read_manifest(path, class_names=["run", "sit", "jump"]).entries] == [0, 2]
    with pytest.raises(UserError, match=r"m.csv line 3: label \(jump\) must be one of the 2 class names"):
        read_manifest(path, class_names=["run", "sit"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("", r"manifest \(.*m.csv\) must list at least one video$"),
        ("path,label\n", r"must list at least one video$"),
        ("path,class\na.mp4,1\n", r"m.csv line 1: the header \(path,class\) must name the column label"),
        ("video,label\na.mp4,1\n", r"m.csv line 1: the header \(video,label\) must name the column path"),
        ("a.mp4,1\nb.mp4,0\n", r"m.csv line 1: the header \(a.mp4,1\) must name the column path"),
        ("path,label\na.mp4,0\nb.mp4,-1\n", r"m.csv line 3: label \(-1\) must be 0 or more"),
        (
            "path,label\na.mp4,0\nb.mp4,5\n",
            r"m.csv line 3: label \(5\) must be below 5, the number of classes",
        ),
        ("path,label\na.mp4,0\nb.mp4,run\n", r"m.csv line 3: label \(run\) must be a number, as others"),
        ("path,label\na.mp4,1.5\nb.mp4,1\n", r"m.csv line 2: label \(1.5\) must be a number, as others"),
        ("path,label\na.mp4,0\na.mp4,0\n", r"m.csv line 3: path \(a.mp4\) must be listed once, .*line 2 too"),
        ("path,label\na.mp4,0\n,1\n", r"m.csv line 3: path \(\) must not be empty"),
        ("path,label\na.mp4,0\nb.mp4,\n", r"m.csv line 3: label \(\) must not be empty"),
        ("path,label\na.mp4\n", r"m.csv line 2: the number of cells \(1\) must be that of the header \(2\)"),
        (
            "path,label\na,b.mp4,1\n",
            r"m.csv line 2: the number of cells \(3\) must be that of the header \(2\)",
        ),
        (
            "path,label,start_seconds\na.mp4,0,soon\n",
            r"line 2: start_seconds \(soon\) must be a number of seconds",
        ),
        (
            "path,label,start_seconds\na.mp4,0,-1\n",
            r"line 2: start_seconds \(-1\) must be a number of seconds",
        ),
        (
            "path,label,start_seconds,end_seconds\na.mp4,0,4,2\n",
            r"line 2: end_seconds \(2\) must be after start_seconds \(4\)",
        ),
        ("a.mp4 0\nb.mp4\n", r"m.csv line 2: the line \(b.mp4\) must be a path, a blank and a label"),
        ("a.mp4, 0\nb.mp4, 1\n", r"m.csv line 1: the separator \(comma\) must be a blank"),
        (
            "path,label\nx.mp4,0\ny.mp4,1\n",
            r"root \(.*\) must be where the paths in .* start: there is no .*x.mp4",
        ),
    ],
)
def test_one_sentence_for_each_mistake(text, message, folder):
    with pytest.raises(UserError, match=message) as caught:
        read_manifest(write(folder, text), num_classes=5)
    assert "\n" not in str(caught.value)


def test_missing_manifest_and_empty_tree(tmp_path):
    with pytest.raises(UserError, match=r"manifest \(.*none.csv\) must be a file or folder that exists"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(UserError, match="must hold a folder with videos for each class, or be a file"):
        read_manifest(tmp_path)
