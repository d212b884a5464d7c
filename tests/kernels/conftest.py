"""Kernels without a GPU."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .shim import Shim

RunWithAsan = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def shim() -> Shim:
    return Shim()


@pytest.fixture
def run_with_asan() -> RunWithAsan:
    """Run Python code in a process with ASan, where `from shim import Shim` and `Shim(asan=True)` work."""
    found = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True
    ).stdout.strip()
    if not os.path.isabs(found):
        pytest.skip("g++ has no libasan")

    def run(code: str) -> "subprocess.CompletedProcess[str]":
        environment = {
            **os.environ,
            "LD_PRELOAD": found,
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
            "PYTHONPATH": str(Path(__file__).parent),
        }
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

    return run
