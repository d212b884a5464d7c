import csv
import os
import warnings
from pathlib import Path

import pytest

from videonorm.data.entries import Entry
from videonorm.data.manifest import read_manifest
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
    assert (manifest.num_classes, manifest.class_names, manifest.largest_label) == (3, None, 2)


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
        (
            "path label\na.mp4 0\n",
            r"m.csv line 1: the header \(path label\) must be separated by commas or tabs",
        ),
        (
            "path,label,path\na.mp4,0,b.mp4\n",
            r"the header \(path,label,path\) must name the column path once",
        ),
        (
            "path,label\na.mp4\t0\n",
            r"m.csv line 2: the number of cells \(1\) must be that of the header \(2\)",
        ),
        (
            'path,label\n"a.mp4,0\nb.mp4,1\n',
            r"m.csv line 2: .* readable as CSV: a quote is opened in it and not closed",
        ),
        ('path,label\n"a\nb.mp4",0\na.mp4\n', r"m.csv line 4: the number of cells \(1\) must be"),
        ('path,label\na.mp4,0\n"a"b,1\n', r"m.csv line 3: the line must be readable as CSV: "),
        ("path,label\na.mp4,0\0\n", r"manifest \(.*m.csv\) must be text in UTF-8, and holds a zero byte"),
        ("a.mp4 0\nb.mp4 ,1\n", r"m.csv line 2: the separator \(comma\) must be a blank"),
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


def names_and_labels(manifest) -> list[tuple[str, int]]:
    return [(Path(entry.path).name, entry.label) for entry in manifest.entries]


@pytest.mark.parametrize("separator", ["\t", ";", " ; ", "\t "])
def test_other_separators(separator, folder):
    text = (
        separator.join(["path", "label", "x"])
        + "\r\n"
        + separator.join(["c d.mp4", "run, fast", ""])
        + "\r\n"
    )
    manifest = read_manifest(write(folder, text))
    assert (names_and_labels(manifest), manifest.class_names) == ([("c d.mp4", 0)], ["run, fast"])


@pytest.mark.parametrize("name", ["a\nb.mp4", ' "a".mp4', "a\u2028b.mp4", "a\x0bb.mp4", "é, ü.mp4"])
def test_names_that_need_care(name, folder):
    (folder / name).touch()
    with open(folder / "m.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], [f"./{name}", 0], ["a.mp4", 1]])
    first, second = read_manifest(folder / "m.csv").entries
    assert Path(first.path) == folder / name
    assert second.path == str(folder / "a.mp4")


def test_bytes_that_are_no_text(folder):
    (folder / "m.csv").write_bytes(b"path,label\n\xff\xe9.mp4,0\na.mp4,1\n")
    path = read_manifest(folder / "m.csv").entries[0].path
    assert os.fsencode(path) == bytes(folder) + b"/\xff\xe9.mp4"


def test_quoted_paths_in_a_list(folder):
    assert names_and_labels(read_manifest(write(folder, '"c d.mp4" 1\na.mp4 0\n'))) == [
        ("c d.mp4", 1),
        ("a.mp4", 0),
    ]


def test_labels_as_pandas_writes_them(folder):
    manifest = read_manifest(write(folder, "path,label\na.mp4,10.0\nb.mp4,2.0\n"))
    assert (names_and_labels(manifest), manifest.class_names) == ([("a.mp4", 10), ("b.mp4", 2)], None)


def test_class_names_of_numbers(folder):
    text = "path,label,class_name\na.mp4,2,sit\nb.mp4,0,100\n"
    manifest = read_manifest(write(folder, text))
    assert (names_and_labels(manifest), manifest.num_classes) == ([("a.mp4", 2), ("b.mp4", 0)], 3)
    assert manifest.class_names == ["100", "1", "sit"]  # the name of class 1 is not known
    (folder / "classes.txt").write_text("100\nrun\nsit\nwalk\n\n")
    manifest = read_manifest(folder / "m.csv")
    assert (manifest.class_names, manifest.num_classes) == (["100", "run", "sit", "walk"], 4)
    assert names_and_labels(read_manifest(folder / "m.csv", class_names=["100", "2", "sit"])) == [
        ("a.mp4", 2),
        ("b.mp4", 0),
    ]
    with pytest.raises(UserError, match=r"m.csv line 2: class_name \(sit\) must be run, which is class 2$"):
        read_manifest(folder / "m.csv", class_names=["100", "sit", "run"])


@pytest.mark.parametrize(
    "rows, message",
    [
        (
            "a.mp4,0,run\nb.mp4,0,sit\n",
            r"line 3: class_name \(sit\) must be run, as label 0 has on .* line 2$",
        ),
        ("a.mp4,0,run\nb.mp4,1,run\n", r"line 3: label \(1\) must be 0, as class_name run has on .* line 2$"),
        ("a.mp4,1,run\nb.mp4,0,sit\n", r"line 2: class_name \(run\) must be on line 2 of .*classes.txt$"),
        ("a.mp4,0,run\nb.mp4,3,jump\n", r"line 3: class_name \(jump\) must be on line 4 of .*classes.txt$"),
        ("a.mp4,0,run\nb.mp4,3,\n", r"line 3: label \(3\) must be below 3, the number of classes$"),
    ],
)
def test_class_names_that_contradict_each_other(rows, message, folder):
    (folder / "classes.txt").write_text("run\nsit\nwalk\n")
    with pytest.raises(UserError, match=message):
        read_manifest(write(folder, f"path,label,class_name\n{rows}"))


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.mp4,\nc d.mp4,\n",
        "path\na.mp4\nc d.mp4\n",
        "path,split\na.mp4,test\nc d.mp4,test\n",
        "a.mp4\n\nc d.mp4\r\n",
    ],
)
def test_lists_without_labels(text, folder):
    manifest = read_manifest(write(folder, text), labels_required=False)
    assert names_and_labels(manifest) == [("a.mp4", -1), ("c d.mp4", -1)]
    assert (manifest.labelled, manifest.class_names, manifest.num_classes) == (False, None, 0)
    assert read_manifest(folder / "m.csv", labels_required=False, class_names=["x", "y"]).num_classes == 2
    with pytest.raises(
        UserError, match="must have labels; only videonorm predict takes|name the column label"
    ):
        read_manifest(folder / "m.csv")


def test_a_folder_of_videos_without_labels(folder):
    (folder / "notes.txt").touch()
    manifest = read_manifest(folder, labels_required=False)
    assert names_and_labels(manifest) == [("a.mp4", -1), ("b.mp4", -1), ("c d.mp4", -1)]


def test_names_beside_a_list_without_labels(folder):
    (folder / "classes.txt").write_text("run\nsit\n")
    path = write(folder, "path,label,class_name\na.mp4,,\n")
    assert read_manifest(path, labels_required=False).class_names == ["run", "sit"]


@pytest.mark.parametrize("text", ["path,label\na.mp4,0\nb.mp4,\n", "a.mp4 0\nb.mp4\n"])
def test_a_row_that_lacks_its_label(text, folder):
    for labels_required in (True, False):
        with pytest.raises(
            UserError, match=r"m.csv line \d: (label \(\) must not be|the line \(b.mp4\) must be)"
        ):
            read_manifest(write(folder, text), labels_required=labels_required)


def test_urls(folder):
    text = "path,label\nhttps://a/b c.mp4?x=1,0\ns3://bucket/./v.mp4,1\na.mp4,2\n/abs/x.mp4,3\n"
    entries = read_manifest(write(folder, text)).entries
    assert [e.path for e in entries] == [
        *("https://a/b c.mp4?x=1", "s3://bucket/./v.mp4"),
        *(str(folder / "a.mp4"), "/abs/x.mp4"),
    ]
    text = "path,label\nv/a #1.mp4,0\ngs://b/v.mp4,1\n"
    paths = [
        [e.path for e in read_manifest(write(folder, text), root).entries]
        for root in ("s3://k/", "http://h/k")
    ]
    assert paths == [["s3://k/v/a #1.mp4", "gs://b/v.mp4"], ["http://h/k/v/a%20%231.mp4", "gs://b/v.mp4"]]
    with pytest.raises(
        UserError, match=r"line 3: path \(https://\*\*\*@h/v.mp4\) must be listed once"
    ) as caught:
        read_manifest(write(folder, "https://me:pw@h/v.mp4 0\n\nhttps://me:pw@h/v.mp4 1\n"))
    assert "line 1 too" in str(caught.value)
    with pytest.raises(UserError, match=r"manifest \(https://h/m.csv\) must be a local file or folder"):
        read_manifest("https://h/m.csv")


def test_files_packed_in_another(folder):
    entries = read_manifest(write(folder, "path,label\na.mp4/000001/x,0\n")).entries
    assert entries[0].path == str(folder / "a.mp4/000001/x")


def test_one_video_under_two_spellings(folder):
    with pytest.raises(
        UserError, match=r"line 3: path \(./a.mp4\) must be listed once, and is on .* line 2 too"
    ):
        read_manifest(write(folder, "path,label\na.mp4,0\n./a.mp4,1\n"))


def test_missing_manifest_and_empty_tree(tmp_path):
    with pytest.raises(UserError, match=r"manifest \(.*none.csv\) must be a file or folder that exists"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(UserError, match="must hold a folder with videos for each class, or be a file"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "rows, num_classes, notice",
    [
        ("a.mp4,0\nb.mp4,1\n", 2, ""),
        (
            "a.mp4,0\nb.mp4,1\n",
            400,
            "classes of the model without a video in {}: 398 of 400 (num_classes), 2, 3, 4, 5, 6 and "
            "393 more",
        ),
        (
            "a.mp4,1\nb.mp4,2\n",
            3,
            "classes of the model without a video in {}: 1 of 3 (num_classes), 0; labels count from 0, and "
            "the smallest there is 1",
        ),
        (
            "a.mp4,jump\nb.mp4,run\n",
            3,
            "classes of the model without a video in {}: 1 of 3 (num_classes), 2",
        ),
    ],
)
def test_classes_without_a_video_are_said(rows, num_classes, notice, folder):
    path = write(folder, f"path,label\n{rows}")
    manifest = read_manifest(path)
    manifest.check_classes(num_classes)
    with warnings.catch_warnings(record=True) as caught:
        manifest.warn_of_empty_classes(num_classes)
    assert [str(warning.message) for warning in caught] == [notice.format(path)] * bool(notice)


def test_a_name_without_a_video(folder):
    (folder / "classes.txt").write_text("run\nsit\nwalk\n")
    manifest = read_manifest(write(folder, "path,label,class_name\na.mp4,2,walk\n"))
    with pytest.warns(UserWarning, match=r": 2 of 3 \(num_classes\), 0 \(run\), 1 \(sit\)$"):
        manifest.warn_of_empty_classes(3)


def test_a_label_that_the_model_does_not_know(folder):
    manifest = read_manifest(write(folder, "path,label\na.mp4,1\nb.mp4,2\n"))
    with pytest.raises(UserError) as caught:
        manifest.check_classes(2)
    assert str(caught.value) == (
        f"label (2) must be below num_classes (2) of the model; it is in {folder}/m.csv; labels count from "
        "0, and the smallest there is 1"
    )
