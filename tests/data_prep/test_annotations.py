"""data_prep/make_manifest.py on a small fixture in each published layout."""

import os
from pathlib import Path

import pytest
from helpers import HEADER, problems, table, videos_of

from videonorm.data import Manifests
from videonorm.errors import UserError


def test_kinetics_in_cvdfoundation_layout(put, write, run, capsys):
    # K400's CSVs have a sixth column and quotes; K700's say "validate"; test lists have no labels.
    write(
        "videos/annotations/train.csv",
        f"\ufeff{HEADER},is_cc\r\n"
        '"riding a bike",-3B32lodo2M,59,69,train,0\r\n'
        "abseiling,_a-______cJ,0,10,train,0\r\n"
        '"passing American football (in game)",aaaaaaaaaaa,7,17,train,1\r\n'
        "\r\n",
    )
    write("videos/annotations/validate.csv", f"{HEADER}\nzumba,---QUuC4vJs,84.0,94.0,validate\n")
    write("videos/annotations/test.csv", "youtube_id,time_start,time_end,split\nttttttttttt,1,11,test\n")
    put(
        "videos/train/-3B32lodo2M_000059_000069.mp4",  # K400 and K700: flat
        "videos/train/abseiling/_a-______cJ_000000_000010.mp4",  # K600: a folder for each class
        "videos/train/part_0/aaaaaaaaaaa_000007_000017.MP4",
        "videos/val/---QUuC4vJs_000084_000094.mp4",
        "videos/test/ttttttttttt_000001_000011.mp4",
    )
    write("videos/train/._aaaaaaaaaaa_000007_000017.mp4", b"macOS")
    assert run("kinetics", probe=True) == 0
    assert videos_of("out/train.csv") == [
        ("train/-3B32lodo2M_000059_000069.mp4", "2", "riding a bike"),
        ("train/abseiling/_a-______cJ_000000_000010.mp4", "0", "abseiling"),
        ("train/part_0/aaaaaaaaaaa_000007_000017.MP4", "1", "passing American football (in game)"),
    ]
    assert videos_of("out/val.csv") == [("val/---QUuC4vJs_000084_000094.mp4", "3", "zumba")]
    assert videos_of("out/test.csv") == [("test/ttttttttttt_000001_000011.mp4", "", "")]
    row = table("out/val.csv")[0]
    assert {name: row[name] for name in list(row)[3:]} == {
        **{"split": "val", "start_seconds": "", "end_seconds": "", "duration_seconds": "2.0"},
        **{"fps": "10.0", "frames": "20", "width": "32", "height": "24", "codec": "h264", "status": "ok"},
    }
    classes = ["abseiling", "passing American football (in game)", "riding a bike", "zumba"]
    assert Path("out/classes.txt").read_text().splitlines() == classes
    assert problems() == []
    source = Manifests(train="out/train.csv", val="out/val.csv", class_names=classes)
    assert [entry.label for entry in source.manifest("train").entries] == [2, 0, 1]
    assert [entry.label for entry in source.manifest("val").entries] == [3]
    shown = capsys.readouterr().out
    assert "classes, in the published order: 4, in out/classes.txt" in shown
    assert "classes without a video" not in shown
    assert "test.csv has no labels, as published" in shown


@pytest.mark.parametrize(
    "name, content", [("c.txt", "run\r\nride a bike\r\n"), ("c.json", {"run": 0, '"ride a bike"': 1})]
)
def test_given_classes_settle_the_order(name, content, put, write, run):
    write(name, content)
    put("videos/ride_a_bike/1.mp4", "videos/run/2.mp4")
    run("folders", "--classes", name)
    assert videos_of("out/train.csv") == [
        ("ride_a_bike/1.mp4", "1", "ride a bike"),
        ("run/2.mp4", "0", "run"),
    ]
    put("videos/jog/3.mp4")
    with pytest.raises(UserError, match=rf"jog: label \(jog\) must be one of the 2 classes of {name}"):
        run("folders", "--classes", name)


def test_mmaction2_lists(put, write, run):
    # MMAction2 has a prefix for each split, and classes without blanks; the files may have been transcoded.
    write("train.txt", "ride_a_bike/x.mp4 1\r\nrun/y z.avi 0\r\nrun/gone.mp4 0\r\n\r\n")
    write("val.txt", "run/gone.mp4\t0\nflat/w.mp4 1\n")
    write("label_map.txt", "run\nride a bike\n")
    put("videos/videos_train/ride a bike/x.mp4", "videos/videos_train/run/y z.mp4")
    put("videos/videos_val/run/gone.mp4", "videos/w.mp4")
    run("lists", "--train", "train.txt", "--val", "val.txt", "--classes", "label_map.txt")
    assert videos_of("out/train.csv") == [
        ("videos_train/ride a bike/x.mp4", "1", "ride a bike"),
        ("videos_train/run/y z.mp4", "0", "run"),
    ]
    assert videos_of("out/val.csv") == [
        ("videos_val/run/gone.mp4", "0", "run"),
        ("w.mp4", "1", "ride a bike"),
    ]
    assert problems() == [("missing", "train", "has no file")]


@pytest.mark.parametrize("separator", [None, ",", "\t", "::"])
def test_pyslowfast_lists(separator, put, write, run, tmp_path):
    put("videos/train/a b/x.mp4", "elsewhere/y.mp4")
    between = separator or " "
    put("videos/train/training dog/z.mp4")
    rows = [f"{tmp_path}/videos/train/a b/x.mp4", f"{tmp_path}/elsewhere/y.mp4", "train/a_b/x.mp4"]
    rows.append("/on/another/machine/training_dog/z.mp4")
    write("train.csv", "".join(f"{path}{between}{label}\n" for label, path in enumerate(rows)))
    run("lists", "--train", "train.csv", *(["--separator", separator] if separator else []))
    assert [(row["path"], row["label"]) for row in table("out/train.csv")] == [
        (rows[0], "0"),
        (rows[1], "1"),
        (f"{tmp_path}/videos/train/training dog/z.mp4", "3"),
    ]
    assert not Path("out/classes.txt").exists()  # the list does not name them
    assert problems() == [
        ("duplicate", "train", "is the same video as in train.csv line 1, with another label")
    ]


def test_ucf101(put, write, run, capsys):
    write("lists/classInd.txt", "1 ApplyEyeMakeup\r\n2 Archery\r\n")
    train = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "Archery/v_Archery_g08_c01.avi"]
    test = "Archery/v_Archery_g01_c01.avi"
    write("lists/trainlist02.txt", f"{train[0]} 1\r\n{train[1]} 2\r\n")
    write("lists/testlist02.txt", f"{test}\r\n")
    put(f"videos/{train[0]}", f"videos/{os.path.basename(train[1])}", f"videos/{test}")
    run("ucf101", "--annotations", "lists", "--fold", "2", probe=True)
    assert videos_of("out/train.csv") == [
        (train[0], "0", "ApplyEyeMakeup"),
        (os.path.basename(train[1]), "1", "Archery"),
    ]
    assert videos_of("out/val.csv") == videos_of("out/test.csv") == [(test, "1", "Archery")]
    source = Manifests("out/train.csv", "out/val.csv", "out/test.csv")
    assert [len(source.manifest(split).entries) for split in ("train", "val", "test")] == [2, 1, 1]
    assert table("out/train.csv")[0]["frames"] == "20"
    assert "val.csv and test.csv hold the same videos" in capsys.readouterr().out


def test_hmdb51(put, write, run):
    names = ["April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "#122_&_(x)!;_cart_wheel_[1].avi", "left_out.avi"]
    write("lists/cartwheel_test_split1.txt", f"{names[1]} 2 \r\n")
    write("lists/brush_hair_test_split1.txt", f"{names[0]} 1 \n{names[2]} 0 \n")
    write("lists/brush_hair_test_split2.txt", f"{names[0]} 2 \n")
    put(f"videos/brush_hair/{names[0]}", f"videos/cartwheel/{names[1]}")
    run("hmdb51", "--annotations", "lists")
    assert videos_of("out/train.csv") == [(f"brush_hair/{names[0]}", "0", "brush_hair")]
    assert videos_of("out/test.csv") == [(f"cartwheel/{names[1]}", "1", "cartwheel")]
    assert len(Manifests(val="out/val.csv").manifest("val").entries) == 1


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_something_something(prefix, put, write, run):
    # The published order is that of labels.json, here not the alphabetical one.
    names = ["Pushing something", "Holding something next to something", "Folding [part of] something"]
    names[2] = "Folding part of something"
    write(f"labels/{prefix}labels.json", {name: str(label) for label, name in enumerate(names)})
    item = {"id": "78687", "label": "holding a pen next to a cup", "placeholders": ["a pen", "a cup"]}
    write(f"labels/{prefix}train.json", [item | {"template": "Holding [something] next to [something]"}])
    write(f"labels/{prefix}validation.json", [{"id": "3", "template": "Folding [part of] something"}])
    write(f"labels/{prefix}test.json", [{"id": "5"}])
    put("videos/78687.webm", "videos/3.webm", "videos/5.webm")
    run("ssv2", "--annotations", "labels")
    assert videos_of("out/train.csv") == [("78687.webm", "1", names[1])]
    assert videos_of("out/val.csv") == [("3.webm", "2", names[2])]
    assert videos_of("out/test.csv") == [("5.webm", "", "")]
    assert Path("out/classes.txt").read_text().splitlines() == names


def test_diving48(put, write, run):
    write(
        "a/Diving48_vocab.json", [["Reverse", "Dive", "NoTwis", "PIKE"], ["Back", "15som", "05Twis", "FREE"]]
    )
    item = {"start_frame": 0, "end_frame": 95}
    write("a/Diving48_train.json", [item | {"vid_name": "V1", "label": 0}])
    write("a/Diving48_test.json", [item | {"vid_name": "V1", "label": 0}])
    write("a/Diving48_V2_train.json", [item | {"vid_name": "_8Vy3dlHg2w_00000", "label": 1}])
    write("a/Diving48_V2_test.json", [item | {"vid_name": "NcEDcx8-Zd8_00088", "label": 0}])
    put("videos/_8Vy3dlHg2w_00000.mp4", "videos/NcEDcx8-Zd8_00088.mp4")
    run("diving48", "--annotations", "a")
    assert videos_of("out/train.csv") == [("_8Vy3dlHg2w_00000.mp4", "1", "Back 15som 05Twis FREE")]
    assert videos_of("out/test.csv") == [("NcEDcx8-Zd8_00088.mp4", "0", "Reverse Dive NoTwis PIKE")]


KINETICS = ("kinetics", "--annotations", "train.csv")
LISTS = ("lists", "--train", "train.csv")


@pytest.mark.parametrize(
    "options, text, message",
    [
        (KINETICS, "", r"annotations \(train.csv\) must have a header"),
        (KINETICS, "label,id\na,b\n", r"line 1: the header \(label,id\) must name the column youtube_id"),
        (
            KINETICS,
            f"{HEADER}\na,x,0,10\n",
            r"train.csv line 2: the number of cells \(4\) must be that .* \(5\)",
        ),
        (KINETICS, f"{HEADER}\na,,0,10,train\n", r"line 2: youtube_id \(\) must not be empty"),
        (
            KINETICS,
            f"{HEADER}\na,x,0:10,10,train\n",
            r"line 2: time_start \(0:10\) must be a number of seconds",
        ),
        (
            KINETICS,
            f"{HEADER}\na,x,0,-1,train\n",
            r"line 2: time_end \(-1\) must be a number of seconds, 0 or",
        ),
        (KINETICS, f"{HEADER}\na,x,9,9,train\n", r"line 2: time_end \(9\) must be after time_start \(9\)"),
        (
            KINETICS,
            f"{HEADER}\n\na,x,0,9,holdout\n",
            r"line 3: split \(holdout\) must be train, val, validate",
        ),
        (KINETICS, f"{HEADER}\n", r"the annotations must list at least one video"),
        (
            KINETICS,
            f"{HEADER}\na,x,0,9,train\n",
            r"--videos \(.*videos\) must hold .*: none of 1 .*x_000000_000009",
        ),
        (KINETICS, f'{HEADER}\n"{"a" * 200_000}",x,0,9,train\n', r"line 2: the line must be readable as CSV"),
        (("kinetics",), "", r"--annotations must name the official CSVs: there is no \*.csv in videos"),
        (
            ("kinetics", "--annotations", "no.csv"),
            "",
            r"annotations \(no.csv\) must be a file that can be read",
        ),
        ((*KINETICS, "--replacement", "no"), "", r"--replacement \(no\) must be a folder that exists"),
        ((*KINETICS, "--videos", "no"), "", r"--videos \(no\) must be a folder that exists"),
        ((*KINETICS, "--videos", "train.csv"), "", r"--videos \(train.csv\) must be a folder$"),
        ((*KINETICS, "--out", "train.csv"), "", r"--out \(train.csv\) must be a folder$"),
        (("folders",), "", r"--videos \(videos\) must hold a folder for each class"),
        (("lists",), "", r"--train, --val or --test must name a list"),
        ((*LISTS, "--separator", ""), "", r"--separator \(\) must not be empty"),
        (LISTS, "a.mp4\n", r"train.csv line 1: the line \(a.mp4\) must be a path, a blank and a label"),
        (
            (*LISTS, "--separator", ","),
            "a.mp4 1\n",
            r"line 1: the line \(a.mp4 1\) must be a path, ',' and a label",
        ),
        (LISTS, "a.mp4 0\nb.mp4 x\n", r"train.csv line 2: label \(x\) must be a number from 0"),
        (LISTS, "a.mp4 -1\n", r"train.csv line 1: label \(-1\) must be a number from 0"),
        (
            (*LISTS, "--classes", "train.csv"),
            "a 1\n",
            r"line 1: label \(1\) must be below 1, the number of classes",
        ),
        ((*LISTS, "--classes", "train.csv"), "", r"classes \(train.csv\) must name at least one class"),
        ((*LISTS, "--classes", "train.csv"), "a b\n\nc\n", r"train.csv: class 1 \(''\) must have a name"),
        (
            (*LISTS, "--classes", "train.csv"),
            "a b\na_b\n",
            r"train.csv: class name \(a_b\) must be there once",
        ),
    ],
)
def test_a_mistake_is_one_sentence(options, text, message, write, run):
    write("train.csv", text)
    Path("videos").mkdir()
    with pytest.raises(UserError, match=message) as error:
        run(*options)
    assert "\n" not in str(error.value)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "layout, files, message",
    [
        ("ucf101", {}, r"annotations \(lists/classInd.txt\) must be a file that can be read"),
        (
            "ucf101",
            {"classInd.txt": "1 A\n3 B\n"},
            r"classInd.txt line 2: the line \(3 B\) must be 2, a blank and",
        ),
        (
            "ucf101",
            {"trainlist01.txt": "C/v.avi 1"},
            r"trainlist01.txt line 1: label \(C\) must be one of the 1 cl",
        ),
        ("ucf101", {"trainlist01.txt": "A/v.avi 2"}, r"label \(2\) must be 1, as A has in classInd.txt"),
        ("hmdb51", {}, r"--annotations \(lists\) must hold HMDB51's files CLASS_test_split1.txt"),
        (
            "hmdb51",
            {"a_test_split1.txt": "v.avi 3\n"},
            r"line 1: the line \(v.avi 3\) must be a video, a blank",
        ),
        ("ssv2", {}, r"must hold one file \*labels.json, and holds none"),
        ("ssv2", {"labels.json": "[1"}, r"labels.json line 1: must be readable as JSON"),
        (
            "ssv2",
            {"labels.json": "[1]"},
            r"classes \(lists/labels.json\) must be a JSON object of name: label",
        ),
        ("ssv2", {"labels.json": {"A": 0, "B": 2}}, r"must give 2 names the labels from 0, each once"),
        ("ssv2", {"train.json": {}}, r"train.json\) must be a JSON list with an object for each video"),
        ("ssv2", {"train.json": [7]}, r"train.json video 1: 7 must be a JSON object"),
        ("ssv2", {"train.json": [{"id": 1}]}, r"train.json video 1: template \(\) must not be empty"),
        ("ssv2", {"train.json": [{"template": "A"}]}, r"train.json video 1: id \(\) must not be empty"),
        (
            "ssv2",
            {"train.json": [{"id": 1, "template": "[X]"}]},
            r"label \(X\) must be one of the 1 classes of",
        ),
        (
            "diving48",
            {"vocab.json": []},
            r"vocab.json\) must be a JSON list with the list of each dive's parts",
        ),
        (
            "diving48",
            {"train.json": [{"label": 1}]},
            r"label \(1\) must be a number from 0, below 1, the number of",
        ),
        ("diving48", {"train.json": [{"label": 0}]}, r"train.json video 1: vid_name \(\) must not be empty"),
        ("diving48", {"b_vocab.json": []}, r"one file \*vocab.json, and holds b_vocab.json, vocab.json"),
    ],
)
def test_a_mistake_in_published_files_is_one_sentence(layout, files, message, write, run):
    good = {
        "ucf101": {"classInd.txt": "1 A\n"} if files else {},
        "ssv2": {"labels.json": {"A": 0}} if files else {},
        "diving48": {"vocab.json": [["A"]]},
    }
    Path("videos").mkdir()
    Path("lists").mkdir()
    for name, content in {**good.get(layout, {}), **files}.items():
        write(f"lists/{name}", content)
    with pytest.raises(UserError, match=message) as error:
        run(layout, "--annotations", "lists")
    assert "\n" not in str(error.value)


def test_split_from_the_name_of_the_file(write, run):
    write("all.csv", "label,youtube_id,time_start,time_end\na,x,0,10\n")
    Path("videos").mkdir()
    with pytest.raises(
        UserError, match=r"annotations \(all.csv\) must have a column split, or train, val or"
    ):
        run("kinetics", "--annotations", "all.csv")
