"""What the scripts share: their folder for files in the making, their sentence for what cannot be written."""

import errno
import sys
import warnings

import pytest
import script
from script import FILE, FOLDER, check_out, unfinished_folder, writing

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


@pytest.mark.parametrize("must", [FILE, FOLDER])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path, must):
    file = tmp_path / "file"
    file.write_text("as it was")
    for good in (tmp_path / "new", tmp_path / "a" / "b"):
        check_out(good, must)
        assert not good.is_file()
    for wrong in [file / "x", tmp_path if must == FILE else file]:
        with pytest.raises(UserError, match=rf"--out \({wrong}\) must be {must}: "):
            check_out(wrong, must)
    assert file.read_text() == "as it was"


@pytest.fixture
def end_of(monkeypatch, capsys):
    """``end_of(main)`` is the exit code and what is printed to stderr of a script with that main."""

    def run(main):
        monkeypatch.setattr(sys, "argv", ["/somewhere/verify.py"])
        monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
        with pytest.raises(SystemExit) as ended:
            script.run(main)
        return ended.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    "error, sentence",
    [
        (UserError("--fps (x) must be a number"), "--fps (x) must be a number"),
        (PermissionError(errno.EACCES, "Permission denied", "/v/\udcff"), "/v/\ufffd: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(), "OSError"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(error, sentence, end_of):
    def main(argv):
        raise error

    assert end_of(main) == (2, f"verify.py: {sentence}\n")


def test_a_warning_is_one_line(end_of):
    def main(argv):
        print(warnings.formatwarning("files left out", UserWarning, "x.py", 3), end="", file=sys.stderr)
        return 1

    assert end_of(main) == (1, "verify.py: files left out\n")
