"""The shim with other kernels than those of the package, in processes that are forked for it."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from .mutation_switch import DEFINITION, VARIABLE


class Machine:
    """The shim's module in a process that is to run other kernels than those of the package."""

    def __init__(self, shim: ModuleType, folder: Path) -> None:
        self.shim, self.folder = shim, folder
        self.kernels: Path = shim.KERNELS
        self.flags = ["-O0" if flag == "-O1" else flag for flag in shim.FLAGS]
        header = folder / "header" / "cuda_shim.h"
        header.parent.mkdir()
        for path in shim.HERE.glob("*.h"):
            shutil.copy(path, header.parent)
        header.write_text(f"{header.read_text()}\n{DEFINITION}\n")
        command = ["g++", "-x", "c++-header", header, "-o", f"{header}.gch", *self.flags, "-w"]
        subprocess.run(command, check=True)

    def folder_with(self, texts: dict[str, str]) -> Path:
        """The kernel files, some of them with other texts."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for path in self.kernels.glob("*.cu*"):
            (folder / path.name).write_text(texts.get(path.name, path.read_text()))
        return folder

    def use(self, folder: Path, number: int) -> None:
        """From now on in this process the kernels of a folder, and of the mutants in a text that of a number.

        Libraries are compiled when they are launched, not before.
        """
        shim = self.shim
        shim.KERNELS, shim.CACHE, shim.HERE = folder, folder / "libraries", self.folder / "header"
        shim.FLAGS = self.flags
        shim.Shim.build = lambda self, units: None
        compile = shim._compile
        compile.cache_clear()

        def compiled(*what):
            library = compile(*what)
            ctypes.c_int.in_dll(library, VARIABLE).value = number
            return library

        shim._compile = compiled

    def use_alone(self, folder: Path) -> None:
        """The kernels of a folder in processes of this one, such as those with ASan."""
        os.environ.update(SHIM_KERNELS=str(folder), XDG_CACHE_HOME=str(folder))

    def record(self, units: set[str]) -> None:
        """The units that are launched in this process from now on.

        A test ends where it launches a kernel that it has edited: it says of a mistake of its own that it is
        seen, and nothing of a mutant, in whose text it would not find what it edits.
        """
        shim = self.shim
        launch = shim.Shim.launch

        def recorded(self, unit, *rest):
            units.add(f"{self._kind} {unit}")
            if self._edit:
                pytest.skip("makes its own mistake")  # ends it, and is no failure
            launch(self, unit, *rest)

        shim.Shim.launch = recorded


def fork(work: Callable[[], int]) -> int:
    """The id of a process that does it, without output, and ends with its result."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        os._exit(work())
    finally:
        os._exit(1)
