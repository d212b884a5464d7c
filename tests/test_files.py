"""Files are whole or not there: written aside, synced, renamed."""

import errno
import json
import os
import stat
import subprocess
import sys

import av
import pytest

from videonorm.files import (
    cache_folder,
    check_writable,
    from_cell,
    new_file,
    new_folder,
    open_new,
    to_cell,
    write,
    write_json,
)


class Stop(Exception):
    pass


def test_text_and_bytes_are_written_and_the_folder_is_made(tmp_path):
    write(tmp_path / "new" / "a.txt", "über\r\n")
    write(tmp_path / "b.bin", b"\x00\xff")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "über\r\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.bin", "new"]


def test_text_takes_a_name_that_is_no_unicode(tmp_path):
    write(tmp_path / "names", os.fsdecode(b"\xff.mp4"))
    assert (tmp_path / "names").read_bytes() == b"\xff.mp4"


def test_whether_a_file_can_be_written_is_found_out_without_writing_it(tmp_path, monkeypatch):
    path = tmp_path / "f"
    check_writable(path)
    assert not list(tmp_path.iterdir())
    path.write_text("old")
    check_writable(path)
    assert path.read_text() == "old"
    check_writable(tmp_path / "new" / "folder" / "f")
    assert [there.name for there in tmp_path.iterdir()] == ["f"]
    for wrong in (path / "below", path / "far" / "below", tmp_path):
        with pytest.raises(OSError) as error:
            check_writable(wrong)
        assert error.value.filename == str(wrong)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        check_writable(path)
    assert error.value.filename == str(path) and path.read_text() == "old"
    assert [left.name for left in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("before", [None, "old"])
def test_an_error_leaves_what_was_there(tmp_path, before):
    path = tmp_path / "f"
    if before:
        path.write_text(before)
    with pytest.raises(Stop), open_new(path) as file:
        file.write("half")
        raise Stop
    assert (path.read_text() if path.exists() else None) == before
    assert len(list(tmp_path.iterdir())) == bool(before)


def test_a_killed_writer_leaves_what_was_there(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    code = "from videonorm.files import open_new; import os, sys\n"
    code += "with open_new(sys.argv[1]) as file: file.write('half'); file.flush(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == 9
    assert path.read_text() == "old"


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def note_replace(source, target):
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write(tmp_path / "f", "content")
    assert events == ["file", "rename", "folder"]

    events.clear()
    with new_folder(tmp_path / "d") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "f").write_text("x")
    assert events == ["folder", "file", "folder", "rename", "folder"]


def test_a_file_keeps_its_suffix_while_it_is_made_and_any_length_of_name(tmp_path):
    name = "n" * 250 + ".mp4"
    with new_file(tmp_path / name) as aside:
        assert aside.suffix == ".mp4" and aside.parent == tmp_path
        aside.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_can_be_made_in_another_folder(tmp_path):
    (tmp_path / "unfinished").mkdir()
    with new_file(tmp_path / "new" / "f.mp4", tmp_path / "unfinished") as aside:
        assert aside.suffix == ".mp4" and aside.parent == tmp_path / "unfinished"
        aside.write_text("x")
    assert (tmp_path / "new" / "f.mp4").read_text() == "x" and not list((tmp_path / "unfinished").iterdir())
    with (
        pytest.raises(FileNotFoundError) as raised,
        new_file(tmp_path / "f", tmp_path / "unfinished") as aside,
    ):
        aside.read_text()
    assert raised.value.filename == str(tmp_path / "f")


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    write(tmp_path / "f", "x")
    (tmp_path / "other").write_text("x")
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "f")
    write(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "f").read_text() == "x"


def test_a_device_is_not_replaced():
    with pytest.raises(OSError, match="is no ordinary file.*/dev/null"):
        write("/dev/null", "x")
    assert not os.path.isfile("/dev/null")


def test_an_error_names_the_file_that_was_asked_for(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as raised:
        write(tmp_path / "f", "x")
    assert raised.value.filename == str(tmp_path / "f") and raised.value.errno == errno.ENOSPC


def test_an_error_of_ffmpeg_names_the_file_too(tmp_path):
    with pytest.raises(OSError) as raised, new_file(tmp_path / "f.mp4"):
        raise av.OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "f.mp4") and raised.value.errno == errno.ENOSPC


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as raised, open_new(tmp_path / "f"):
        (tmp_path / "elsewhere" / "source").read_text()
    assert raised.value.filename == str(tmp_path / "elsewhere" / "source")


def test_a_folder_is_whole_or_not_there(tmp_path):
    with pytest.raises(Stop), new_folder(tmp_path / "d") as folder:
        (folder / "f").write_text("x")
        raise Stop
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "d") as folder:
        (folder / "f").write_text("x")
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["f"]
    with pytest.raises(OSError), new_folder(tmp_path / "d") as folder:
        (folder / "g").write_text("x")
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["f"]


def test_a_record_has_no_number_that_json_has_not(tmp_path):
    write_json(tmp_path / "r.json", {"loss": float("nan"), "in": [1.5, {"deep": float("inf")}], "n": 3})
    assert json.loads((tmp_path / "r.json").read_text()) == {
        "loss": None,
        "in": [1.5, {"deep": None}],
        "n": 3,
    }


def test_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "videonorm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "videonorm"


@pytest.mark.parametrize(
    "text, cell",
    [
        ("=1+1", "'=1+1"),
        ('=HYPERLINK("http://x")', '\'=HYPERLINK("http://x")'),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-x", "'-x"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("'=1", "''=1"),
        ("''@", "'''@"),
        ("-0.5", "-0.5"),
        ("'-0.5", "''-0.5"),
        ("it's", "it's"),
        ("'quoted'", "'quoted'"),
        ("", ""),
        ("a=b", "a=b"),
    ],
)
def test_no_cell_is_a_formula_and_every_text_comes_back(text, cell):
    assert to_cell(text) == cell
    assert from_cell(cell) == text
