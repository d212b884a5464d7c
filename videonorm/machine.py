"""What a result is made on: cores, devices, versions, the commit. Importing it imports no torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videonorm import __version__
from videonorm.errors import UserError

if TYPE_CHECKING:
    import torch


def available_cores() -> int:
    """Cores that this process may use: its affinity, and in a container or a job its quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([cores, *(max(1, int(quota)) for quota in _cpu_quotas())])


def _cpu_quotas(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[float]:
    """Cores that each control group of this process grants (Linux; a group without a limit is left out)."""
    quotas = []
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, group = line.split(":", 2)
        if not controllers:  # version 2: "200000 100000" are microseconds in each period, or "max"
            folder, names = root, ["cpu.max"]
        elif "cpu" in controllers.split(","):  # version 1: the same in two files, -1 for no limit
            folder, names = root / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        # A container sees its own group at the root, whatever its name outside is.
        path = Path(group.lstrip("/"))
        for group_folder in [folder / path, *(folder / parent for parent in path.parents), folder]:
            files = [group_folder / name for name in names]
            if all(file.is_file() for file in files):
                limit, period = " ".join(file.read_text() for file in files).split()
                if limit not in ("max", "-1"):
                    quotas.append(int(limit) / int(period))
    return quotas


def is_first_process() -> bool:
    """Whether this is the only process of a run on this machine, or the first: the one that speaks."""
    # Set by torchrun and Lightning; by Slurm.
    rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID")
    return rank in (None, "", "0")


def processor() -> str:
    """The processor's name, as Linux has it; elsewhere its kind."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def gpu_driver() -> str | None:
    """Version of the NVIDIA driver; None where there is none, or on Windows."""
    path = Path("/proc/driver/nvidia/version")
    found = re.search(r"\s(\d+\.\d+(\.\d+)?)\s", path.read_text()) if path.exists() else None
    return found[1] if found else None


def visible_gpus() -> list[str]:
    """Values of CUDA_VISIBLE_DEVICES, one for each GPU that torch can use."""
    if not (shutil.which("nvidia-smi") or Path("/dev/nvidiactl").exists()):
        return []
    # torch decides, in a process of its own: its import is slow and takes memory that the runs can use.
    count = "import torch; print(torch.cuda.device_count())"
    number = int(
        subprocess.run([sys.executable, "-c", count], capture_output=True, check=True, text=True).stdout
    )
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else [str(index) for index in range(number)]
    return names[:number]


def choose_device(name: str = "auto") -> torch.device:
    """The device of an option `--device`: cpu, cuda, cuda:1, ...; "auto" is a GPU if there is one.

    Raises:
        UserError: there is no such device, or not on this machine.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")  # as little use as an unknown one
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device ({name}) must be auto, cpu or cuda, or one GPU as in cuda:0")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device ({name}) must be present, and this machine has {torch.cuda.device_count()} CUDA GPUs"
        )
    return device


def machine(device: torch.device) -> dict[str, Any]:
    """The machine, and the device of it that did the work."""
    import torch

    cuda = device.type == "cuda"
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "cores": available_cores(),
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "device_memory_mib": torch.cuda.get_device_properties(device).total_memory / 2**20 if cuda else None,
    }


def versions(*packages: str) -> dict[str, str | None]:
    """The versions that a result may depend on; of ``packages`` too, None where one is not installed."""
    import torch

    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {
        "videonorm": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in dict.fromkeys(["torch", "lightning", "av", *packages])},
        "cuda": torch.version.cuda,
    }


def commit() -> str | None:
    """The git commit of this code, with `-dirty` if a file of it was changed; None outside a checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None  # installed, maybe in an environment inside another project's checkout
    describe = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None  # no git here, or no commit yet
