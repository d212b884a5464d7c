import re

import pytest
import summary
from summary import Video

from videonorm.errors import UserError


def texts(figure):
    import matplotlib.text

    return " | ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_from_the_columns_alone(tmp_path, capsys):
    (tmp_path / "v.mp4").touch()  # cannot be opened, and need not be
    rows = [f"v.mp4,{n % 2},{['run', 'sit'][n % 2]},{10 if n else 4},30,340,256" for n in range(10)]
    header = "path,label,class_name,duration_seconds,fps,width,height"
    (tmp_path / "train.csv").write_text("\n".join([header, *rows]))
    for name in ("s.png", "s.svg"):
        assert summary.main([str(tmp_path / "train.csv"), "--out", str(tmp_path / "new" / name)]) == 0
    assert "10 videos, 2 classes, 1.6 minutes" in capsys.readouterr().out
    assert (tmp_path / "new/s.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "new/s.svg").read_text()
    for words in ("10 videos, 2 classes", "run", "sit", "340 x 256", "median 10, 4 to 10", "100 %"):
        assert words in svg
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["s.png", "s.svg"]


def test_no_text_is_a_formula():
    videos = [Video(split, r"$\frac{", 4.0, 30.0, (64, 48)) for split in (r"a$\x$", "b")]
    figure = summary.draw(videos)
    figure.draw_without_rendering()  # where formulas are read
    assert r"(a\$\x\$ 1, b 1)" in texts(figure)


def test_files_are_opened_where_columns_are_missing(tmp_path, make_video, capsys):
    (tmp_path / "x").mkdir()
    make_video(tmp_path / "x/good.mp4", 10, height=32, width=48)
    (tmp_path / "x/empty.mp4").touch()
    (tmp_path / "m.csv").write_text(
        "path,label,start_seconds,end_seconds\nx/good.mp4,0,,\nx/good.mp4,0,0.2,0.3\nx/empty.mp4,1,,\n"
    )
    from rows import read_rows

    rows = read_rows(tmp_path / "m.csv")
    videos = summary._videos(rows, summary.parser().parse_args(["m.csv", "--num_workers", "1"]))
    assert videos == [
        Video("m", "0", pytest.approx(0.4), 25.0, (48, 32)),
        Video("m", "0", pytest.approx(0.1), 25.0, (48, 32)),
        Video("m", "1"),
    ]
    assert summary.headline(videos) == "3 videos, 2 classes, 0.0 minutes, 1 cannot be read"
    assert re.search("bad: .*empty.mp4 is empty", capsys.readouterr().out)


def test_many_classes_and_sizes():
    videos = [
        Video(["train", "val"][n % 5 == 0], f"class {n % 100}", 10.0, 29.97, (300 + n % 20, 256))
        for n in range(1010)
    ]
    shown = texts(summary.draw(videos))
    assert "100 classes, from class 0 (11) to class 99 (10)" in shown
    assert "12 others" in shown and "train" in shown and "val" in shown


def test_a_long_tail_does_not_squeeze_the_rest():
    videos = [Video("train", "a", 10.0, 30.0, (340, 256)) for _ in range(999)]
    figure = summary.draw([*videos, Video("train", "a", 3600.0, 30.0, (340, 256))])
    durations = figure.axes[1]
    assert durations.get_xlim()[1] < 20
    assert "last bar: 1 above" in durations.get_xlabel()


def test_nothing_known():
    shown = texts(summary.draw([Video("test", ""), Video("test", "")]))
    assert "no labels" in shown and shown.count("unknown") == 3 and "2 cannot be read" in shown


def test_the_picture_needs_a_known_ending(tmp_path):
    with pytest.raises(UserError, match=r"must end in .png or .svg"):
        summary.main([str(tmp_path), "--out", "s.jpg"])
