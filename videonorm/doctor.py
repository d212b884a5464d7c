"""`videonorm doctor`: what this machine has, and which implementation of each part would run on it."""

from __future__ import annotations

import itertools
import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from videonorm import __version__
from videonorm.files import cache_folder
from videonorm.machine import available_cores, commit, gpu_driver, processor, versions
from videonorm.options import Parser

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    from rich.console import Console
    from rich.table import Table

    from videonorm.kernels.compiler import Compiled
    from videonorm.kernels.unit import Unit

Row = tuple[str, str]
GIB = 2**30


def main(argv: list[str]) -> None:
    parser = Parser(
        prog="videonorm doctor",
        description="Say what this machine has (cores, GPUs, CUDA compiler, video decoders) and which "
        "implementation of each operator would run on it, and why; and what each CUDA kernel takes of a GPU.",
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
        ("Gradients of convolutions in bf16 on the CPU", convolutions()),
    ):
        console.print(_table(title, rows))
    for table in kernels(console):
        console.print(table)


def machine() -> Iterator[Row]:
    yield "videonorm", f"{__version__}, commit {commit() or 'unknown (not in a git checkout)'}"
    yield "Python", f"{platform.python_version()}, {platform.platform()}"
    yield "cores", f"{available_cores()} for this process, {os.cpu_count()} in the machine ({processor()})"
    yield "memory", f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.1f} GiB"
    yield "cache folder", f"{cache_folder()}, {_free_bytes(cache_folder()) / GIB:.1f} GiB free on its disk"


def cuda() -> Iterator[Row]:
    import torch

    from videonorm.kernels.compiler import nvrtc_version
    from videonorm.kernels.unit import KernelError

    version = torch.version.cuda
    built = f"built for CUDA {version}" if version else "built without CUDA"
    yield "torch", f"{torch.__version__}, {built}"
    if not version:
        return
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        yield "GPU", f"none: {str(error).splitlines()[0]}"
    else:
        if driver := gpu_driver():
            yield "driver", driver
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            yield f"cuda:{index}", f"{gpu.name}, {gpu.total_memory / GIB:.1f} GiB, sm_{gpu.major}{gpu.minor}"
    try:
        yield "NVRTC", nvrtc_version()
    except KernelError as error:
        yield "NVRTC", f"none: {error}"


def packages() -> Iterator[Row]:
    needed = (
        *("lightning", "jsonargparse", "torchvision", "pytorchvideo"),
        *("safetensors", "simplejpeg", "fsspec"),
    )
    extras = {"onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx", "ray": "ray"}
    found = versions(*needed, *extras)
    for name in needed:
        yield name, found[name] or "not installed, and needed: pip install -e ."
    for name, extra in extras.items():
        yield name, found[name] or f"not installed; of the extra [{extra}]"


def decoders() -> Iterator[Row]:
    import av

    from videonorm.data import available_decoders

    problems = available_decoders()
    package = {"pyav": "av", "torchcodec": "torchcodec", "torchcodec_cuda": "torchcodec", "decord": "decord"}
    found = versions(*package.values())
    for name, problem in problems.items():
        version = found[package[name]]
        if name == "pyav" and problem is None:
            version = f"{version} with FFmpeg {av.ffmpeg_version_info}"
        yield name, f"{version}, works" if problem is None else f"{version or 'not installed'}: {problem}"
    yield "auto", "pyav" if problems["pyav"] is None else "none: pyav does not work"


def operators() -> Iterator[Row]:
    """What torch's dispatcher would call for each of our operators, by device."""
    import torch

    import videonorm.ops  # noqa: F401  # registers them

    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("videonorm::")]
    problem = _kernel_problem()
    cuda = "compiled CUDA C++ kernels" if problem is None else "PyTorch operations, the reference"
    if not torch.cuda.is_available():
        cuda += " (there is no GPU here)"
    for name in sorted(names):
        implementations = {"CPU": "PyTorch operations", "CUDA": cuda}
        for key in implementations:
            if not torch._C._dispatch_has_kernel_for_dispatch_key(name, key):
                implementations[key] = f"none is registered for {key}, so a call is an error"
        yield name.removeprefix("videonorm::"), "cpu: {CPU}\ncuda: {CUDA}".format(**implementations)
    if problem is not None:
        yield "why", problem


def convolutions() -> Iterator[Row]:
    """Whether torch's own weight gradient over few frames is right here, and whether ours is."""
    from videonorm.ops.convolution_backward import probe

    right, right_with_zeros = probe()
    yield "torch's own", "right" if right else "wrong where a kernel is longer than the clip"
    yield "as used", "right" if right_with_zeros else "wrong: train in 32-true on this CPU"


def kernels(console: Console) -> Iterator[Table]:
    """What the variants of each kernel file take of a multiprocessor, for each architecture of the GPUs.

    They are compiled for it if they are not in the cache, about a second each. PTX has no such figures: it is
    the driver that compiles it.
    """
    import torch
    from rich.progress import track

    from videonorm.kernels import units
    from videonorm.kernels.compiler import compile
    from videonorm.kernels.unit import KernelError

    capabilities = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    for major, minor in sorted(capabilities) or [(9, 0)]:
        arch = f"sm_{major}{minor}"
        title = f"Kernels for {arch}" + ("" if capabilities else " (there is no GPU here)")
        with ThreadPoolExecutor(available_cores()) as pool:  # NVRTC releases the interpreter lock
            compiled = pool.map(compile, units(), itertools.repeat(arch))
            try:
                variants = list(track(compiled, title, len(units()), console=console, transient=True))
            except KernelError as error:
                pool.shutdown(cancel_futures=True)
                yield _table(title, [("none", str(error))])
                continue
        targets = {variant.target for variant in variants if variant.is_ptx}
        if targets:
            ptx = f"compiled as PTX of {', '.join(targets)}, which the driver translates: newer than NVRTC"
            yield _table(title, [(f"{len(units())} variants", ptx)])
            continue
        by_source = itertools.groupby(zip(units(), variants, strict=True), lambda pair: pair[0].source)
        for source, of_source in by_source:
            yield _usage_table(f"{title}: {source}", of_source)


def _usage_table(title: str, variants: Iterable[tuple[Unit, Compiled]]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("variant", no_wrap=True)
    for heading in ("registers\na thread", "static shared\nbytes a block", "spilled bytes\na thread"):
        table.add_column(heading, justify="right", overflow="fold")
    for unit, compiled in variants:
        used = compiled.kernels
        spills = [f"{usage.spill_bytes} in {name}" for name, usage in used.items() if usage.spill_bytes]
        table.add_row(
            " ".join(f"{name}={value}" for name, value in unit.macros),
            _range(usage.registers for usage in used.values()),
            _range(usage.shared_bytes for usage in used.values()),
            "\n".join(spills) or "0",
        )
    return table


def _range(values: Iterable[int]) -> str:
    """Of a variant's kernels."""
    low, *_, high = sorted(values) * 2
    return str(low) if low == high else f"{low} to {high}"


def _kernel_problem() -> str | None:
    """Why the kernels would not run on the GPUs of this machine; without one, why they cannot be compiled."""
    import torch

    from videonorm.kernels.compiler import nvrtc_version
    from videonorm.kernels.gpu import KernelError, gpu

    try:
        nvrtc_version()
        for index in range(torch.cuda.device_count()):
            gpu(torch.device("cuda", index))
    except KernelError as error:
        return str(error)
    return None


def _table(title: str, rows: Iterable[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, Text(text))  # as it is: a cell takes [onnx] for markup
    return table


def _free_bytes(folder: Path) -> int:
    """On the disk where `folder` is, or would be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
