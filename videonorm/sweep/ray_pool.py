"""The runs of a sweep as Ray tasks: a GPU each where the cluster has GPUs, else a core each.

The output folder, the configs and the data must lie at the same paths on every node.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from videonorm.errors import UserError
from videonorm.sweep.pool import how_it_ended, start_process, stop_processes


class RayPool:
    """``LocalPool`` on a Ray cluster.

    Args:
        address: of the cluster, as ``ray.init`` takes it; "local" starts one on this machine.
        size: how many tasks to hand over at a time; Ray itself queues them by resources.
    """

    def __init__(self, address: str, size: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "--ray needs Ray, which is not installed: pip install 'videonorm[ray]'"
            ) from error
        self._ray = ray
        self.size = size
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError) as error:
            raise UserError(f"--ray ({address}) must be the address of a running cluster: {error}") from error
        share = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}
        self._task = ray.remote(max_retries=0, **share)(_run)
        self._names: dict[object, str] = {}  # task -> name

    def start(self, name: str, command: Sequence[str], log: Path) -> None:
        self._names[self._task.remote(list(command), log, os.getcwd())] = name

    def ended(self) -> dict[str, str]:
        running = list(self._names)
        over, _ = self._ray.wait(running, num_returns=len(running), timeout=0) if running else ([], [])
        return {self._names.pop(task): self._how(task) for task in over}

    def _how(self, task: object) -> str:
        try:
            return how_it_ended(self._ray.get(task))
        except self._ray.exceptions.RayError as error:  # the node or its worker went away
            return " ".join(str(error).split())

    def kill(self, name: str) -> None:
        for task in [task for task, of in self._names.items() if of == name]:
            self._ray.cancel(task)

    def stop(self) -> list[str]:
        killed: list[str] = []
        for task in self._names:
            self._ray.cancel(task)
        if self._names:
            _, left = self._ray.wait(list(self._names), num_returns=len(self._names), timeout=30)
            killed = [self._names[task] for task in left]
        self._ray.shutdown()
        return killed


def _run(command: list[str], log: Path, folder: str) -> int:
    os.chdir(folder)
    process = start_process(command, log, {})
    try:
        return process.wait()
    finally:
        stop_processes([process])
