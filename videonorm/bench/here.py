"""What `videonorm bench all` runs on, asked in a process of its own, which takes no GPU memory for long."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from videonorm.bench.records import ORIGIN, Row, origin
from videonorm.errors import UserError
from videonorm.machine import available_cores, choose_device, visible_gpus


class Here(NamedTuple):
    """The device, cpu or cuda; what lets a process see no other GPU; the machine, versions and commit."""

    device: str
    environment: Mapping[str, str]
    made_on: Row


def ask(device: str, seconds: float) -> Here:
    """Look at a device.

    Args:
        device: of an option: auto, cpu, cuda, cuda:1.
        seconds: to wait for it.

    Raises:
        UserError: there is no such device, or it does not answer.
        RuntimeError: the process that looks fails.
    """
    command = [sys.executable, "-m", __name__, device]
    try:
        result = subprocess.run(command, timeout=seconds, capture_output=True, text=True)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"device ({device}) must answer, and has not in {seconds:.0f} s") from error
    if result.returncode:
        raise RuntimeError(f"the process that looks at the device failed:\n{result.stderr.strip()}")
    answer = json.loads(result.stdout)
    if "mistake" in answer:
        raise UserError(answer["mistake"])
    return Here(**answer)


def facts(name: str) -> Here:
    """What ``ask`` asks for.

    Raises:
        UserError: there is no such device.
    """
    device = choose_device(name)
    made_on: Row = origin(ORIGIN, device) | {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": available_cores(),
    }
    environment: dict[str, str] = {}
    if device.type == "cuda":
        import torch

        gpu = torch.cuda.get_device_properties(device)
        made_on |= {"gpu_memory_mib": gpu.total_memory // 2**20, "arch": f"sm_{gpu.major}{gpu.minor}"}
        made_on |= {"cudnn": torch.backends.cudnn.version()}  # type: ignore[no-untyped-call]
        if device.index is not None:
            environment = {"CUDA_VISIBLE_DEVICES": visible_gpus()[device.index]}
    made_on = {name: "" if value is None else value for name, value in made_on.items()}
    return Here(device.type, environment, made_on)


def main(name: str) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    try:
        json.dump(facts(name)._asdict(), answers)
    except UserError as error:
        json.dump({"mistake": str(error)}, answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
