from pathlib import Path

import pytest
import verify
from helpers import reasons_in, table
from workers import attempt

from videonorm.errors import UserError


def run(out, *arguments):
    return verify.main([*map(str, arguments), "--out", str(out), "--num_workers", "1"])


@pytest.fixture
def folder(tmp_path, make_video):
    """Four good videos, one damaged between its first, middle and last frame."""
    for number in range(4):
        (tmp_path / "source/x").mkdir(parents=True, exist_ok=True)
        make_video(tmp_path / f"source/x/{number}.mp4", 40, gop=5)
    whole = (tmp_path / "source/x/0.mp4").read_bytes()
    spoilt = bytearray(whole)
    at = whole.index(b"mdat") + (len(whole) - 2500) // 4
    spoilt[at : at + 200] = bytes(200)
    (tmp_path / "source/x/spoilt.mp4").write_bytes(spoilt)
    return tmp_path / "source"


def test_good_videos(folder, tmp_path, capsys):
    (folder / "x/spoilt.mp4").unlink()
    for full in ([], ["--full"]):
        assert run(tmp_path / "bad.csv", folder, "--max_bad_fraction", 0, *full) == 0
        assert (tmp_path / "bad.csv").read_text().splitlines() == ["path,reason,split"]
    assert "0 of 4 videos are bad" in capsys.readouterr().out


def test_damage_in_mid_file_is_found_by_a_full_decode(folder, tmp_path):
    assert run(tmp_path / "fast.csv", folder) == 0
    assert run(tmp_path / "full.csv", folder, "--full") == 1
    found = reasons_in(tmp_path / "full.csv")
    assert found.keys() == {"spoilt.mp4"} and "damaged" in found["spoilt.mp4"]


def test_more_frames_than_are_held_at_a_time(folder, monkeypatch):
    monkeypatch.setattr(verify, "AT_A_TIME", 7)
    checks = [
        verify.Check(str(folder / f"x/{name}.mp4"), None, None, "auto", True) for name in ("0", "spoilt")
    ]
    assert attempt(verify.verify, checks[0]) is None
    assert "damaged" in attempt(verify.verify, checks[1]).reason


def test_reasons_and_the_fraction(folder, tmp_path, capsys):
    (folder / "x/spoilt.mp4").unlink()
    (folder / "x/empty.mp4").touch()
    (folder / "x/text.mp4").write_text("text")
    assert run(tmp_path / "bad.csv", folder, "--max_bad_fraction", 0.5) == 0
    assert run(tmp_path / "bad.csv", folder, "--max_bad_fraction", 0.3) == 1
    found = reasons_in(tmp_path / "bad.csv")
    assert found.keys() == {"empty.mp4", "text.mp4"}
    assert found["empty.mp4"] == "is empty (0 bytes)"
    assert "bad: " in capsys.readouterr().out


def test_only_the_stretch_of_a_row_counts(folder, tmp_path):
    (folder / "m.csv").write_text(
        "path,label,start_seconds,end_seconds,split\n"
        "x/spoilt.mp4,0,1.2,1.6,train\nx/1.mp4,0,5,6,val\nx/gone.mp4,0,,,val\n"
    )
    assert run(tmp_path / "bad.csv", folder / "m.csv", "--full") == 1
    rows = table(tmp_path / "bad.csv")
    assert [(Path(row["path"]).name, row["split"]) for row in rows] == [("1.mp4", "val"), ("gone.mp4", "val")]
    assert "has no frame between" in rows[0]["reason"] and "cannot be found" in rows[1]["reason"]


def test_a_decoder_that_is_not_there(folder, tmp_path, monkeypatch):
    from videonorm.data import decoding

    monkeypatch.setattr(decoding, "_problem", lambda decoder: "it is not installed")
    with pytest.raises(UserError, match=r"decoder \(decord\) must be installed"):
        run(tmp_path / "bad.csv", folder, "--decoder", "decord")


def test_the_place_of_the_result_is_tested_first(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "run_all", None)
    file = tmp_path / "file"
    file.touch()
    for out, reason in ((file / "bad.csv", f"{file}: File exists"), (tmp_path, "is no ordinary file")):
        with pytest.raises(UserError) as error:
            run(out, folder)
        assert str(error.value) == f"--out ({out}) must be a file that can be written: {reason}"
