"""report.html while a sweep runs: drawn again, in a process of its own, as runs end."""

import os
import subprocess
import sys
import time
from pathlib import Path

from videonorm.machine import available_cores
from videonorm.processes import how_it_ended
from videonorm.sweep.pool import start_process, stop_processes

SECONDS_BEFORE_FIRST = 10.0  # a sweep that is over by then has its report anyway
SHARE = 0.01  # of the cores' time, at most
COMMAND = (sys.executable, "-m", "videonorm", "sweep", "--report")


class LiveReport:
    """Call ``poll`` often, ``outdated`` when there is more to show, ``stop`` at the end.

    Args:
        output: the sweep's folder.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None
        self._outdated = self._troubled = False
        self._started = time.monotonic()
        self._next = self._started + SECONDS_BEFORE_FIRST

    def outdated(self) -> None:
        self._outdated = True

    def poll(self) -> str | None:
        """Start drawing if it is time to, or see to its end. Returns what was in its way, once."""
        now = time.monotonic()
        how: str | None = None
        if self._process and (code := self._process.poll()) is not None:
            self._process = None
            self._next = now + (now - self._started) / SHARE / available_cores()
            how = how_it_ended(code)
        if self._outdated and not self._process and now >= self._next:
            self._outdated, self._started = False, now
            try:
                alone = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
                self._process = start_process([*COMMAND, str(self._output)], Path(os.devnull), alone)
            except OSError as error:  # as of a machine that has no process left to give
                how = str(error.strerror)
                self._next = now + SECONDS_BEFORE_FIRST
        if not how or self._troubled:
            return None
        self._troubled = True
        return f"report.html is not drawn while the sweep runs: {how}; --report {self._output} says why"

    def stop(self) -> None:
        if self._process:
            stop_processes([self._process])
