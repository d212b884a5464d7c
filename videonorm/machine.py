"""What a result was made on: the machine, the versions, the commit."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from videonorm import __version__


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(device: torch.device) -> dict[str, Any]:
    """The machine, and the device of it that did the work."""
    cuda = device.type == "cuda"
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "cores": available_cores(),
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "device_memory_mib": torch.cuda.get_device_properties(device).total_memory / 2**20 if cuda else None,
    }


def versions() -> dict[str, str | None]:
    """The versions that a result may depend on."""
    return {
        "videonorm": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "lightning", "av")},
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
