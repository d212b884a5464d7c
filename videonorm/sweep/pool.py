"""Processes, so many at a time, each with its own share of the machine."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from videonorm.errors import UserError
from videonorm.machine import available_cores, visible_gpus
from videonorm.processes import how_it_ended, kill_group
from videonorm.sweep.locks import RUN, holding

GPUS = "CUDA_VISIBLE_DEVICES"

SECONDS_TO_END = 20.0  # from SIGTERM to SIGKILL: a run finishes its step and saves itself


class LocalPool:
    """Runs commands on this machine, each with a name.

    Args:
        environments: one for each command at a time, added to this process's own.
    """

    def __init__(self, environments: Sequence[Mapping[str, str]]) -> None:
        self.how = f"{len(environments)} at a time"
        self._free = list(reversed(environments))
        self._running: dict[str, tuple[subprocess.Popen[bytes], Mapping[str, str]]] = {}

    def has_room(self, devices: int) -> bool:
        """Whether a command that uses so many devices can start now."""
        return bool(self._free)

    def start(self, name: str, command: Sequence[str], log: Path, devices: int) -> None:
        """Start a command that appends what it prints to ``log``, and holds the run in the log's folder.

        Raises:
            OSError: it cannot be started, or another process holds the run.
        """
        share = self._free.pop()
        environment = dict(share)
        if gpus := share.get(
            GPUS
        ):  # of those, no more than it uses: with `devices: auto` it takes all it sees
            environment[GPUS] = ",".join(gpus.split(",")[:devices])
        with holding(log.parent / RUN) as keep_open:
            self._running[name] = start_process(command, log, environment, keep_open), share

    def ended(self) -> dict[str, str]:
        """Commands that have ended since the last call, and how: "" for success. Their workers end too."""
        over = {
            name: code for name, (process, _) in self._running.items() if (code := process.poll()) is not None
        }
        for name in over:
            process, environment = self._running.pop(name)
            kill_group(process)
            self._free.append(environment)
        return {name: how_it_ended(code) for name, code in over.items()}

    def kill(self, name: str) -> None:
        """End a command that will not by itself; ``ended`` then tells of it."""
        kill_group(self._running[name][0])

    def stop(self) -> list[str]:
        """End what still runs. Returns the names of those that had to be killed."""
        processes = {name: process for name, (process, _) in self._running.items()}
        self._running.clear()
        killed = stop_processes(list(processes.values()))
        return [name for name, process in processes.items() if process in killed]


def start_process(
    command: Sequence[str], log: Path, environment: Mapping[str, str], keep_open: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, so that what is left of it can be ended with it."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
            pass_fds=keep_open,
        )


def stop_processes(processes: Sequence[subprocess.Popen[bytes]]) -> list[subprocess.Popen[bytes]]:
    """Ask each process to end, and kill its whole group when it has, or after SECONDS_TO_END.

    Only the process itself is asked: it needs its workers for what it does before it ends.

    Returns:
        Those that did not end when they were asked to.
    """
    killed: list[subprocess.Popen[bytes]] = []
    try:
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + SECONDS_TO_END
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                killed.append(process)
    finally:  # a second Ctrl-C does not wait
        for process in processes:
            kill_group(process)
            process.wait()
    return killed


def environments(
    jobs: int | Literal["auto"], num_runs: int, on_cpu: bool, devices: int = 1
) -> list[dict[str, str]]:
    """Environment variables of each process at a time: one a GPU where there are GPUs, else one a core.

    Their threads are the user's OMP_NUM_THREADS where that is set: one may run two sweeps on a machine,
    of which none knows of the other. Threads that wait for each other are very slow.

    Args:
        devices: the most that a run uses.

    Raises:
        UserError: a run is to use more GPUs than there are.
    """
    gpus = [] if on_cpu else visible_gpus()
    cores = available_cores()
    if gpus and devices > len(gpus):
        raise UserError(f"trainer.devices ({devices}) must be at most {len(gpus)}, the GPUs of this machine")
    count = min(num_runs, max(1, len(gpus or range(cores)) // devices) if jobs == "auto" else jobs)
    threads = str(max(1, cores // max(1, count * devices)))
    shares: list[dict[str, str]] = [{}] * count
    if gpus:
        firsts = range(0, count * devices, devices)
        shares = [{GPUS: ",".join(gpus[(i + k) % len(gpus)] for k in range(devices))} for i in firsts]
    threads = os.environ.get("OMP_NUM_THREADS") or threads
    own = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}  # torch takes the second where it has MKL
    return [{**own, **share} for share in shares]
