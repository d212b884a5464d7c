"""What the scripts share: their folder for files in the making, their sentence for what cannot be written."""

import pytest
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


def test_what_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as raised, writing(tmp_path / "file", "a folder to write in"):
        (tmp_path / "file" / "below").mkdir()
    assert str(raised.value) == f"--out ({tmp_path / 'file'}) must be a folder to write in: Not a directory"
