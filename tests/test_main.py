"""The command line as a person meets it."""

import subprocess
import sys

import pytest

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


@pytest.mark.parametrize("command", ["--help", "sweep", "export", "evaluate", "bench", "doctor"])
def test_help_and_a_mistyped_option_import_nothing_heavy(command):
    options = [command] if command.startswith("-") else [command, "--no-such-option"]
    code = (
        "import sys; sys.argv[1:] = sys.argv[1:]\n"
        "from videonorm.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    code = stop.code\nelse:\n    code = 0\n"
        "heavy = {'torch', 'lightning', 'pandas', 'matplotlib', 'av', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True)
    assert result.returncode == (0 if command == "--help" else 2), result.stderr
    assert "Traceback" not in result.stderr
