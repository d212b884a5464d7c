"""The runs of a sweep as Ray tasks: as many GPUs each as it uses where the cluster has GPUs, else cores.

The output folder, the configs, the data and Python's environment must lie at the same paths on every node.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videonorm.errors import UserError
from videonorm.messages import first_line, one_line
from videonorm.processes import how_it_ended
from videonorm.sweep.locks import RUN, holding
from videonorm.sweep.pool import start_process, stop_processes

SECONDS_TO_ANSWER = 5.0  # of a machine
SECONDS_TO_CONNECT = 30.0  # to a cluster, with all that Ray then starts
# In a process of its own: Ray waits minutes for a cluster that does not answer, and may end its process.
CONNECT = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
except Exception as error:
    sys.exit(" ".join(f"{type(error).__name__}: {error}".split()))
"""
# How a command ends whose machine is taken away, or is being: by itself it ends otherwise.
TAKEN = (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM)


class Lost(str):
    """How a command ended that can go on elsewhere: its machine went away."""


class RayPool:
    """``LocalPool`` on a Ray cluster.

    Args:
        address: of the cluster, as ``ray.init`` takes it; "local" starts one on this machine.
        on_cpu: the commands use no GPU, whether there are any or not.
        devices: the most that a command uses.

    Raises:
        UserError: there is no such cluster, or it has no machine with so many devices.
    """

    how = "on Ray"

    def __init__(self, address: str, on_cpu: bool, devices: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "--ray needs Ray, which is not installed: pip install 'videonorm[ray]'"
            ) from error
        if address != "local":
            _check_answers(address)
        self._ray = ray
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        self._kind = "GPU" if not on_cpu and ray.cluster_resources().get("GPU") else "CPU"
        most = max((node["Resources"].get(self._kind, 0) for node in ray.nodes() if node["Alive"]), default=0)
        if devices > most:
            ray.shutdown()
            raise UserError(
                f"trainer.devices ({devices}) must be at most {most:.0f}, the most {self._kind}s of a node "
                f"of the cluster --ray ({address})"
            )
        self._tasks: dict[Any, tuple[str, int]] = {}  # task -> name, devices

    def has_room(self, devices: int) -> bool:
        """Whether the cluster, as it is now, can do one more; Ray itself chooses the machine."""
        taken = sum(of for _, of in self._tasks.values())
        return not taken or taken + devices <= self._ray.cluster_resources().get(self._kind, 0)

    def start(self, name: str, command: Sequence[str], log: Path, devices: int) -> None:
        share = {"num_gpus": devices} if self._kind == "GPU" else {"num_cpus": devices}
        task = self._ray.remote(max_retries=0, **share)(_run)
        self._tasks[task.remote(list(command), log, os.getcwd())] = name, devices

    def ended(self) -> dict[str, str]:
        running = list(self._tasks)
        over, _ = self._ray.wait(running, num_returns=len(running), timeout=0) if running else ([], [])
        return {self._tasks.pop(task)[0]: self._how(task) for task in over}

    def _how(self, task: object) -> str:
        try:
            code = self._ray.get(task)
        except self._ray.exceptions.TaskCancelledError:
            return "cancelled"
        except self._ray.exceptions.RayTaskError as error:  # the command could not be started
            return first_line(error.cause)
        except self._ray.exceptions.RayError as error:  # the machine, or Ray on it
            return Lost(one_line(error).partition(". ")[0])
        return Lost(how_it_ended(code)) if code in TAKEN else how_it_ended(code)

    def kill(self, name: str) -> None:
        for task in [task for task, (of, _) in self._tasks.items() if of == name]:
            self._ray.cancel(task)

    def stop(self) -> list[str]:
        killed: list[str] = []
        for task in self._tasks:
            self._ray.cancel(task)
        if self._tasks:
            _, left = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=30)
            killed = [self._tasks[task][0] for task in left]
        self._ray.shutdown()
        return killed


def _check_answers(address: str) -> None:
    """Raise UserError within seconds if a cluster cannot be connected to."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    sentence = f"--ray ({address}) must be the address of a running cluster of this Ray"
    if port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"{sentence}: {getattr(error, 'strerror', None) or error}") from error
    connect = [sys.executable, "-c", CONNECT, address]
    try:
        subprocess.run(connect, capture_output=True, check=True, text=True, timeout=SECONDS_TO_CONNECT)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{sentence}: no answer in {SECONDS_TO_CONNECT:.0f} s") from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:] or [how_it_ended(error.returncode)]
        raise UserError(f"{sentence}: {last[0]}") from error


def _run(command: list[str], log: Path, folder: str) -> int:
    os.chdir(folder)
    with holding(log.parent / RUN) as keep_open:
        process = start_process(command, log, {}, keep_open)
    try:
        return process.wait()
    finally:
        stop_processes([process])
