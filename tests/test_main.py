"""The command line as a person meets it."""

import errno
import importlib
import os
import signal
import subprocess
import sys
import types

import pytest

from videonorm import __main__
from videonorm.__main__ import COMMANDS


def videonorm(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "videonorm", *options], capture_output=True, text=True)


def test_help_names_every_command():
    result = videonorm("--help")
    assert result.returncode == 0
    assert all(f"  {command} " in result.stdout for command in COMMANDS)


def test_a_mistyped_command_is_one_sentence():
    result = videonorm("swep")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "command (swep) must be one of" in result.stderr
    assert "did you mean sweep?" in result.stderr


def run_without_heavy_imports(*options: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; sys.argv[1:] = sys.argv[1:]\n"
        "from videonorm.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    code = stop.code\nelse:\n    code = 0\n"
        "heavy = {'torch', 'lightning', 'jsonargparse', 'matplotlib', 'av', 'numpy', 'scipy', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "sys.exit(code)"
    )
    return subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command):
    result = run_without_heavy_imports(command, "--help")
    assert result.returncode == 0, result.stderr
    assert f"videonorm {command}" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistyped_option_imports_nothing_heavy(command):
    option = "--data.num_frame" if command in ("fit", "validate", "test", "predict") else "--no-such-option"
    result = run_without_heavy_imports(command, option, "8")
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1 and option in result.stderr


def run_a_command_that_raises(monkeypatch, error: BaseException) -> object:
    def main(argv: list[str]) -> None:
        raise error

    monkeypatch.setattr(
        importlib, "import_module", lambda name: types.SimpleNamespace(__name__=name, main=main)
    )
    monkeypatch.setattr(sys, "argv", ["videonorm", "doctor"])
    with pytest.raises(SystemExit) as stop:
        __main__.main()
    return stop.value.code


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/last.ckpt"),
            "runs/last.ckpt: No space left on device",
        ),
        (PermissionError(errno.EACCES, "Permission denied", b"a/b"), "a/b: Permission denied"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
    ],
)
def test_what_the_disk_or_the_system_refuses_is_one_sentence(monkeypatch, capsys, error, sentence):
    assert run_a_command_that_raises(monkeypatch, error) == 2
    assert capsys.readouterr().err == f"videonorm: {sentence}\n"


def test_a_librarys_own_oserror_keeps_its_traceback(monkeypatch):
    with pytest.raises(OSError, match="^no such model$"):
        run_a_command_that_raises(monkeypatch, OSError("no such model"))


def test_a_reader_that_has_read_enough():
    """`videonorm --help | head`: no traceback, and the code that the shell knows it by."""
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "videonorm", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, "")
