"""Processes of which nothing runs on behind the block that started them."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def started(command: Sequence[str], **how: Any) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, which is ended with it: Ctrl-C is the caller's to hear."""
    process = subprocess.Popen(command, text=True, start_new_session=True, **how)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a process and all that it has started, in whatever groups, and wait until it is gone."""
    below = family(process.pid)[1:] if process.poll() is None else []
    kill_group(process)
    for pid in below:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kill a process and what is left of its group; what has ended before is no error."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def how_it_ended(code: int) -> str:
    """An exit code in words, "" for success."""
    if code == 0:
        return ""
    if code == -signal.SIGKILL:
        return "killed by SIGKILL, as Linux does when memory runs out"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def family(pid: int | None = None) -> list[int]:
    """A process, by default this one, and all that it started, directly or not, as far as they run."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if fields := stat(int(folder.name)):
            parents[int(folder.name)] = int(fields[1])
    found = [os.getpid() if pid is None else pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found


def stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat behind the name, which may hold blanks; None without such a process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
