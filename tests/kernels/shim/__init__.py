"""Kernel files on the CPU: compiled by g++ with cuda_shim.h, which says what it checks."""

import ctypes
import functools
import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from filelock import FileLock

import videonorm.kernels
from videonorm import files
from videonorm.kernels.counters import Counters
from videonorm.kernels.unit import Unit

HERE = Path(__file__).parent
KERNELS = Path(os.environ.get("SHIM_KERNELS", Path(videonorm.kernels.__file__).parent))
CACHE = files.cache_folder() / "tests" / "shim"  # of libraries, by all that goes into them
MAX_SHARED_BYTES = 227 * 1024

COMMON_FLAGS = [
    *("-std=c++20", "-O1", "-fPIC"),
    "-march=native",  # fused multiply-add and fp16 conversions in hardware
    "-fno-gnu-unique",  # no two libraries share a variable
]
ASAN_FLAGS = [*COMMON_FLAGS, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = [
    *COMMON_FLAGS,
    "-fwrapv",  # an int that is too small wraps, and is not made a wider one in a loop
    "-fsanitize=alignment,bounds",  # without libubsan, in whose place the header reports
]

# What the header declares and cannot define, as it does not know Params.
ENTRY = """
void shim::run_thread() {
    reinterpret_cast<void (*)(Params)>(const_cast<void*>(kernel))(*static_cast<const Params*>(params));
}
extern const size_t shim::params_bytes = sizeof(Params);
"""

Edit = Callable[[str], str]


def changed(right: str, wrong: str, occurrence: int = 0) -> Edit:
    """One occurrence of a text becomes another."""

    def edit(source: str) -> str:
        parts = source.split(right)
        assert 0 <= occurrence < len(parts) - 1
        return right.join(parts[: occurrence + 1]) + wrong + right.join(parts[occurrence + 1 :])

    return edit


class Shim:
    """A machine that runs kernels on CPU tensors, blocks and the threads of each in a random order of `seed`.

    A launch raises RuntimeError where a barrier or a shuffle is not reached by all its threads, an access is
    misaligned, shared memory is overrun, or a counter is not 0 behind it. `edit` maps the text of a kernel
    file to that which is run. `asan` needs a process of the fixture `run_with_asan`, which an access out of
    bounds ends with a report. With `races`, two accesses that nothing orders are an error, too. `blocks` says
    which of a grid are run, where all would take for ever.
    """

    multiprocessors = 4

    def __init__(
        self,
        seed: int = 0,
        *,
        edit: Edit | None = None,
        asan: bool = False,
        races: bool = False,
        blocks: slice = slice(None),
    ):
        self._seeds = random.Random(seed)
        self._edit = edit
        self._kind = "asan" if asan else "races" if races else "plain"
        self.blocks = blocks
        self._counters = torch.zeros(0, dtype=torch.int32)

    def build(self, units: Iterable[Unit]) -> None:
        """Compile ahead, two at a time."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._library, units))

    def launch(
        self, unit: Unit, kernel: str, grid: int, block: int, shared_bytes: int, params: ctypes.Structure
    ) -> None:
        """Run a kernel as a GPU would, in this thread. `params` points to CPU tensors."""
        library = self._library(unit)
        if not 1 <= grid < 2**31:
            raise RuntimeError(f"grid ({grid}) must be at least 1 and below 2**31")
        if not 1 <= block <= 1024:
            raise RuntimeError(f"block ({block}) must be 1 to 1024 threads")
        if shared_bytes % 4 or not 0 <= shared_bytes <= MAX_SHARED_BYTES:
            raise RuntimeError(
                f"shared_bytes ({shared_bytes}) must be a multiple of 4, at most {MAX_SHARED_BYTES}"
            )
        size, declared = ctypes.sizeof(params), library.shim_params_bytes()
        if size != declared:
            raise RuntimeError(
                f"{type(params).__name__} ({size} bytes) must be Params of {unit.source} ({declared} bytes)"
            )
        function = ctypes.cast(getattr(library, kernel), ctypes.c_void_p)
        seed = self._seeds.getrandbits(64) | 1
        first, end, _ = self.blocks.indices(grid)
        error = library.shim_launch(
            function, grid, first, end, block, shared_bytes, seed, ctypes.byref(params)
        )
        left = self._counters.nonzero().flatten().tolist()
        if error or left:
            self._counters = torch.zeros_like(self._counters)
        if error:
            raise RuntimeError(f"{kernel}: {error.decode()}")
        if left and self.blocks == slice(None):
            raise RuntimeError(f"{kernel} left counters other than 0: {left}")

    def counters(self, number: int) -> Counters:
        """As many as there were ever asked for, zeroed once."""
        if len(self._counters) < number:
            self._counters = torch.zeros(number, dtype=torch.int32)
        return Counters(self._counters.data_ptr(), number, self._counters)

    def _library(self, unit: Unit) -> ctypes.PyDLL:
        text = (KERNELS / unit.source).read_text()
        text = self._edit(text) if self._edit else text
        return _compile(Path(unit.source).name, unit.macros, text, self._kind)


@functools.cache
def _compile(name: str, macros: tuple[tuple[str, str], ...], text: str, kind: str) -> ctypes.PyDLL:
    if not shutil.which("g++"):
        raise RuntimeError("g++ was not found: it is needed to run kernels on the CPU")
    text = f'#include "cuda_shim.h"\n#line 1 "{name}"\n{text}\n{ENTRY}'
    flags = ["-shared", "-Wl,-Bsymbolic", *(ASAN_FLAGS if kind == "asan" else FLAGS)]
    if kind != "asan":
        flags += ["-nodefaultlibs", "-lm", "-lc", "-lgcc"]
    if kind == "races":  # without libtsan: races.h
        flags += ["-DWATCH_RACES", "-fsanitize=thread", "-lstdc++"]
    flags += [f"-D{macro}={value}" for macro, value in macros]
    headers = [path.read_text() for path in (*sorted(HERE.glob("*.h")), *sorted(KERNELS.glob("*.cuh")))]
    ingredients = text, headers, flags, _compiler()
    path = CACHE / f"{hashlib.sha256(repr(ingredients).encode()).hexdigest()[:32]}.so"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # another worker may want the same
        if not path.exists():
            with files.new_file(path) as aside:
                command = ["g++", "-x", "c++", "-", "-o", aside, *flags, f"-I{HERE}", f"-I{KERNELS}"]
                built = subprocess.run(command, input=text, capture_output=True, text=True)
                if built.returncode:
                    raise RuntimeError(f"g++ cannot compile {name} with {dict(macros)}:\n{built.stderr}")
    library = ctypes.PyDLL(str(path))  # holds the GIL: a library has one set of fibers
    library.shim_launch.restype = ctypes.c_char_p
    library.shim_launch.argtypes = [ctypes.c_void_p, *[ctypes.c_uint] * 5, ctypes.c_uint64, ctypes.c_void_p]
    library.shim_params_bytes.restype = ctypes.c_size_t
    return library


@functools.cache
def _compiler() -> str:
    """g++'s version, and the instructions that it knows this machine to have."""
    asked = ["g++", "-###", "-march=native", "-E", "-x", "c++", "/dev/null"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stderr
