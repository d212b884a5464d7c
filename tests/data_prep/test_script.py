"""What the scripts share: their folder for files in the making, their sentence for what cannot be written."""

import errno
import sys
import warnings

import pytest
import script
from script import unfinished_folder, writing

from videonorm.errors import UserError
from videonorm.files import new_file


def test_an_unfinished_folder_goes_at_the_end(tmp_path):
    with unfinished_folder(tmp_path, "a") as first, unfinished_folder(tmp_path, "b") as second:
        (first / "part").touch()
        assert first != second
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_was_writing_goes_at_the_next_start_and_what_is_whole_stays(tmp_path):
    with pytest.raises(KeyboardInterrupt), unfinished_folder(tmp_path, "a") as folder:
        (folder / "part").touch()
        with new_file(tmp_path / "video.mp4", folder) as aside:
            aside.touch()
            left = aside
            raise KeyboardInterrupt
    left.touch()  # as if there had been no time to remove it
    with unfinished_folder(tmp_path, "a") as folder:
        assert [path.name for path in folder.iterdir()] == ["part"]


def test_what_cannot_be_written_is_one_sentence_that_names_the_file(tmp_path):
    file = tmp_path / "file"
    file.touch()
    sentence = f"--out ({file}) must be a folder to write in: "
    with pytest.raises(UserError) as raised, writing(file, "a folder to write in"):
        (file / "below").mkdir()
    assert str(raised.value) == f"{sentence}{file / 'below'}: Not a directory"
    for error, reason in (
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device", str(file)), "No space left on device"),
        (OSError("without a number"), "without a number"),
        (TimeoutError(), "TimeoutError"),
    ):
        with pytest.raises(UserError) as raised, writing(file, "a folder to write in"):
            raise error
        assert str(raised.value) == sentence + reason


@pytest.mark.parametrize(
    "error, sentence",
    [
        (
            PermissionError(errno.EACCES, "Permission denied", b"/m/\xff.csv"),
            "/m/\ufffd.csv: Permission denied",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found"),
            "No usable temporary directory",
        ),
        (UserError("--x (1) must be 2"), "--x (1) must be 2"),
    ],
)
def test_what_nobody_foresaw_of_a_file_is_one_sentence_too(error, sentence, monkeypatch, capsys):
    def main(arguments):
        raise error

    monkeypatch.setattr(sys, "argv", ["/somewhere/verify.py"])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with pytest.raises(SystemExit) as ended:
        script.run(main)
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and printed.startswith(f"verify.py: {sentence}") and printed.count("\n") == 1


def test_a_warning_is_one_line(monkeypatch, capsys):
    def main(arguments):
        print(warnings.formatwarning("files left out", UserWarning, "x.py", 3), end="", file=sys.stderr)
        return 1

    monkeypatch.setattr(sys, "argv", ["/somewhere/verify.py"])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with pytest.raises(SystemExit) as ended:
        script.run(main)
    assert (ended.value.code, capsys.readouterr().err) == (1, "verify.py: files left out\n")
