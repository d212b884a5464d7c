"""The README's commands, and how they are run: over little data, in a home of their own."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from videonorm.__main__ import main
from videonorm.study.judgement import as_markdown as as_markdown_of_verdicts
from videonorm.study.verdicts import read_verdicts
from videonorm.sweep.length_matrix import length_matrix
from videonorm.sweep.report import read_sweep
from videonorm.sweep.tables import as_markdown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -e "
FEW = {  # contenders, or cases
    "kernels": ["--op", "gn", "ws", "--dtype", "float32", "--contender", "ours", "bn", "var_mean"],
    "step": ["--net", "r3d-18", "--contender", "bn", "gn_ws"],
    "loader": ["--loader", "ours_pyav", "--memory_clips", "40"],
    "decode": ["--loader", "limit_disposable", "ours_pyav"],
    "all": ["--device", "cpu", "--stage", "replay"],  # which a CPU skips
    "views": ["--loader", "ours", "--num_clips", "2"],
    "plan": ["--norms", "gn_ws_recompute", "--num_frames", "16"],
    "measure": ["--num_frames", "2", "--memory_gib", "0.04"],
    "statistics": ["--num_frames", "2", "--batch_size", "2", "--batches", "2"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]
# These need nothing of the others: they have a file, and so a process, of their own.
OF_THE_MACHINE = [line for line in COMMANDS if line.startswith(("videonorm bench", "videonorm doctor"))]


def readme_results(name: str) -> str:
    """What the README has of a committed sweep: the quickstart's whole results.md, of others the tables."""
    sweep = read_sweep(ROOT / "videonorm" / "sweep" / name)
    matrix = length_matrix(sweep.cells, sweep.scores)
    text = as_markdown(sweep.cells, sweep.answer, sweep.about, matrix)
    if name == "quickstart":
        return text
    return text[text.index("| T x stride") :]


def readme_studies() -> str:
    """What the README has of the committed verdicts."""
    return as_markdown_of_verdicts(read_verdicts(ROOT / "videonorm" / "study" / "results" / "verdicts.csv"))


def options_of(home: Path, command: str) -> list[str]:
    """Those of a command line of the README, of fewer contenders."""
    if command.startswith(INSTALL):
        command = command.removeprefix(INSTALL).partition(" && .venv/bin/")[2]
    command = command.replace("motion_v1_seed0_400_400_200", "motion_v1_seed0_16_4_4")
    program, *options = shlex.split(command)
    assert program == "videonorm", command
    if options[0] in ("bench", "frontier"):
        options += FEW.get(options[1], [])
    return [option.replace("~", str(home), 1) for option in options]


def run(home: Path, command: str, **environment: str) -> None:
    """Run a command as a user does."""
    python = [sys.executable, "-m", "videonorm"]
    inherited = {key: value for key, value in os.environ.items() if key != "XDG_CACHE_HOME"}
    environment = {**inherited, "HOME": str(home), "PYTHONPATH": str(ROOT), **environment}
    line = python + options_of(home, command)
    result = subprocess.run(line, cwd=home, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"


def run_here(home: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in this process, which has imported what takes a command its first five seconds."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "argv", ["videonorm", *options_of(home, command)])
    try:
        main()
    except SystemExit as error:
        assert not error.code, command
