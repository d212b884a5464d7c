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
