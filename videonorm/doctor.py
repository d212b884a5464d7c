"""`videonorm doctor`: what this machine has, and which implementation of each part would run on it."""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from videonorm import __version__

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    from rich.table import Table

Row = tuple[str, str]
GIB = 2**30


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="videonorm doctor",
        description="Say what this machine has (cores, GPUs, CUDA compiler, video decoders) and which "
        "implementation of each operator would run on it, and why.",
    )
    parser.parse_args(argv)

    from rich.console import Console

    console = Console()
    for title, rows in (
        ("Machine", machine()),
        ("CUDA", cuda()),
        ("Packages", packages()),
        ("Video decoders", decoders()),
        ("Operators", operators()),
    ):
        console.print(_table(title, rows))


def machine() -> Iterator[Row]:
    from videonorm.data.motion import MotionClips
    from videonorm.machine import available_cores, commit

    yield "videonorm", f"{__version__}, commit {commit() or 'unknown (not in a git checkout)'}"
    yield "Python", f"{platform.python_version()}, {platform.platform()}"
    yield "cores", f"{available_cores()} for this process, {os.cpu_count()} in the machine"
    yield "memory", f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.1f} GiB"
    cache = MotionClips().root.parent
    yield "cache folder", f"{cache}, {_free_bytes(cache) / GIB:.1f} GiB free on its disk"


def cuda() -> Iterator[Row]:
    import torch

    version = torch.version.cuda
    yield (
        "torch",
        f"{torch.__version__}, " + (f"built for CUDA {version}" if version else "built without CUDA"),
    )
    if not version:
        return
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        yield "GPU", f"none: {str(error).splitlines()[0]}"
    else:
        driver = Path("/proc/driver/nvidia/version")  # absent on Windows
        if driver.exists():
            yield "driver", driver.read_text().splitlines()[0]
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            yield f"cuda:{index}", f"{gpu.name}, {gpu.total_memory / GIB:.1f} GiB, sm_{gpu.major}{gpu.minor}"
    yield "NVRTC", _nvrtc(version.partition(".")[0])


def packages() -> Iterator[Row]:
    for name in ("lightning", "jsonargparse", "torchvision", "pytorchvideo", "safetensors"):
        yield name, _version(name) or "not installed, and needed: pip install -e ."
    for name, extra in {"onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx", "ray": "ray"}.items():
        yield name, _version(name) or f"not installed; of the extra [{extra}]"


def decoders() -> Iterator[Row]:
    import av

    from videonorm.data import available_decoders

    problems = available_decoders()
    package = {"pyav": "av", "torchcodec": "torchcodec", "decord": "decord"}
    for name, problem in problems.items():
        version = _version(package[name])
        if name == "pyav" and problem is None:
            version = f"{version} with FFmpeg {av.ffmpeg_version_info}"
        yield name, f"{version}, works" if problem is None else f"{version or 'not installed'}: {problem}"
    yield "auto", "pyav" if problems["pyav"] is None else "none: pyav does not work"


def operators() -> Iterator[Row]:
    """What torch's dispatcher would call for each of our operators, by device."""
    import torch

    import videonorm.ops  # noqa: F401  # registers them

    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("videonorm::")]
    gpu = "" if torch.cuda.is_available() else " (there is no GPU to run it)"
    for name in sorted(names):
        cpu, cuda = (_implementation(name, key) for key in ("CPU", "CUDA"))
        yield name.removeprefix("videonorm::"), f"cpu: {cpu}\ncuda: {cuda}{gpu}"
    if not _has_kernels():
        yield (
            "why",
            "videonorm has no compiled kernels in this version: every operator is composed of torch's own",
        )


def _implementation(operator: str, key: str) -> str:
    import torch

    if not torch._C._dispatch_has_kernel_for_dispatch_key(operator, key):
        return f"none is registered for {key}, so a call is an error"
    return f"the one registered for {key}" if _has_kernels() else f"PyTorch operations, registered for {key}"


def _has_kernels() -> bool:
    return importlib.util.find_spec("videonorm.kernels") is not None


def _table(title: str, rows: Iterable[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, Text(text))  # as it is: a cell takes [onnx] for markup
    return table


def _nvrtc(major: str) -> str:
    """NVIDIA's runtime compiler, of torch's CUDA version."""
    name = f"nvrtc64_{major}0_0.dll" if platform.system() == "Windows" else f"libnvrtc.so.{major}"
    try:
        library = ctypes.CDLL(name)  # torch has loaded the one it came with
    except OSError as error:
        return f"not found: {error}"
    numbers = ctypes.c_int(), ctypes.c_int()
    if status := library.nvrtcVersion(*map(ctypes.byref, numbers)):
        return f"{name} answers with error {status}"
    return f"{numbers[0].value}.{numbers[1].value} ({name})"


def _free_bytes(folder: Path) -> int:
    """On the disk where `folder` is, or would be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
