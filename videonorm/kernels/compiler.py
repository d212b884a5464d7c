"""Units compiled by NVRTC, in memory or from the user's cache folder. Needs neither a GPU nor a toolkit."""

import functools
import hashlib
import io
import json
import re
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from videonorm import files
from videonorm.kernels.unit import KernelError, Unit

FOLDER = Path(__file__).parent
FORMAT = 1  # of a cache file: raise it when that changes

# -v: registers and spills in the log. Line numbers: for compute-sanitizer and profilers; they cost no time.
# Device as default: generic lambdas cannot be annotated, and NVRTC 13.0 takes those for host functions.
OPTIONS: dict[str, Any] = {
    "std": "c++17",
    "ptxas_options": "-v",
    "lineinfo": True,
    "device_as_default_execution_space": True,
}

INCLUDE = re.compile(r'^\s*#\s*include\s*"(.+)"', re.MULTILINE)

_importing = threading.Lock()


@dataclass(frozen=True)
class Usage:
    """What a thread of a kernel, and a block, takes of a multiprocessor."""

    registers: int  # 32-bit, a thread
    shared_bytes: int  # static, a block
    stack_bytes: int  # local memory, a thread: what the compiler could not keep in registers
    spill_bytes: int  # stores and loads, a thread: the registers that it had too few of


@dataclass(frozen=True)
class Compiled:
    """A compiled unit: a cubin for "sm_90", PTX for "compute_90"."""

    target: str
    code: bytes
    log: str  # of `ptxas -v`, which makes a cubin of PTX

    @property
    def is_ptx(self) -> bool:
        return self.target.startswith("compute_")

    @property
    def kernels(self) -> dict[str, Usage]:
        """By name, in the order of the names; of PTX none is known."""
        kernels = {}
        for part in self.log.split("Compiling entry function '")[1:]:
            frames = re.findall(
                r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
            )  # of the kernel and of functions in it that were not inlined
            kernels[part[: part.index("'")]] = Usage(
                registers=max(int(number) for number in re.findall(r"Used (\d+) registers", part)),
                shared_bytes=sum(int(number) for number in re.findall(r"(\d+) bytes smem", part)),
                stack_bytes=max(int(stack) for stack, _, _ in frames),
                spill_bytes=sum(int(stores) + int(loads) for _, stores, loads in frames),
            )
        return dict(sorted(kernels.items()))


def compile(unit: Unit, arch: str) -> Compiled:
    """The unit for a GPU architecture, say "sm_90": from the cache folder, or by NVRTC in about a second.

    For an architecture newer than NVRTC it is PTX, which the GPU's driver translates when it loads it.

    Any number of processes may compile the same unit at once. A damaged cache file is made again; a cache
    folder that cannot be used costs a warning and the compilation, every time.

    Raises:
        KernelError: NVRTC is not installed, does not know the architecture, or finds an error in the source.
    """
    source = FOLDER / unit.source
    folders = [source.parent, FOLDER]
    texts = list(_texts(source, folders))
    target = target_for(arch)
    ingredients = FORMAT, nvrtc_version(), target, OPTIONS, unit.macros, texts
    name = f"{source.stem}.{target}.{hashlib.sha256(repr(ingredients).encode()).hexdigest()[:32]}"

    try:
        cached = _unpack(target, (files.cache_folder() / "kernels" / name).read_bytes())
    except (OSError, RuntimeError):  # most often, not there yet; or a user without a home
        cached = None
    if cached is not None:
        return cached
    compiled = _compile(unit, target, texts[0], folders)
    try:
        files.write(files.cache_folder() / "kernels" / name, _pack(compiled))
    except (OSError, RuntimeError) as error:
        _warn_not_kept(getattr(error, "strerror", None) or str(error))
    return compiled


def target_for(arch: str) -> str:
    """What to compile for a GPU architecture: itself, where NVRTC knows it, or else the PTX nearest below it.

    PTX of "compute_90" runs on whatever is not older than sm_90 (CUDA C++ Programming Guide, "Application
    Compatibility"). An architecture older than all that NVRTC knows is left for it to refuse.
    """
    known, number = nvrtc_architectures(), int(arch.removeprefix("sm_"))
    below = [older for older in known if older < number]
    return arch if number in known or not below else f"compute_{max(below)}"


def cuda_core() -> ModuleType:
    """The module, imported in one thread at a time: `cuda.core` fails in a second one (version 1.2)."""
    with _importing:
        import cuda.core

        core: ModuleType = cuda.core
    return core


@functools.cache
def nvrtc_version() -> str:
    """Of the NVRTC that compiles. Raises KernelError where there is none."""
    try:
        from cuda.bindings import nvrtc

        status, major, minor = nvrtc.nvrtcVersion()
    except Exception as error:  # no package, or no library: each has errors of its own
        raise KernelError(f"NVRTC could not be loaded: {_first_line(error)}") from error
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise KernelError(f"NVRTC does not tell its version: {status.name}")
    return f"{major}.{minor}"


@functools.cache
def nvrtc_architectures() -> tuple[int, ...]:
    """Those that this NVRTC knows, 90 for sm_90. Raises KernelError where there is no NVRTC."""
    nvrtc_version()
    from cuda.bindings import nvrtc

    status, architectures = nvrtc.nvrtcGetSupportedArchs()
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise KernelError(f"NVRTC does not tell its architectures: {status.name}")
    return tuple(architectures)


def _compile(unit: Unit, target: str, text: str, folders: list[Path]) -> Compiled:
    log = io.StringIO()
    try:
        core = cuda_core()
        options = core.ProgramOptions(
            name=unit.source,
            arch=target,
            define_macro=list(unit.macros),
            include_path=[str(folder) for folder in folders],
            **OPTIONS,
        )
        kind = "ptx" if target.startswith("compute_") else "cubin"
        code = core.Program(text, "c++", options).compile(kind, logs=log).code
    except Exception as error:  # cuda.core's errors have no public common class
        raise KernelError(f"{unit} could not be compiled for {target}: {error}") from error
    assert isinstance(code, bytes)
    return Compiled(target, code, log.getvalue())


def _texts(path: Path, folders: list[Path]) -> Iterator[str]:
    """The text of a file, then of all that it includes, which is compiled with it."""
    paths = [path]
    for path in paths:  # which grows on the way
        text = path.read_text()
        yield text
        for name in INCLUDE.findall(text):
            found = next((folder / name for folder in folders if (folder / name).exists()), None)
            if found is not None and found not in paths:  # a missing one is for NVRTC to tell
                paths.append(found)


# A cache file is the SHA-256 of the rest, the log as a line of JSON, and the code.


def _pack(compiled: Compiled) -> bytes:
    rest = json.dumps(compiled.log).encode() + b"\n" + compiled.code
    return hashlib.sha256(rest).digest() + rest


def _unpack(target: str, data: bytes) -> Compiled | None:
    """None if the file is damaged."""
    digest, rest = data[:32], data[32:]
    if hashlib.sha256(rest).digest() != digest:
        return None
    log, _, code = rest.partition(b"\n")
    return Compiled(target, code, json.loads(log))


@functools.cache  # once
def _warn_not_kept(reason: str) -> None:
    warnings.warn(f"Compiled kernels are not kept for the next run: {reason}", stacklevel=2)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
