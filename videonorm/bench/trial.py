"""Trials: what each contender does in a process of its own, with nobody else running.

One process for all would not be fair: the allocator and the threads of one contender slow down the next.
A process is told what to do as JSON and answers with a line of JSON for each case. To import and to prepare
is not part of any time.
"""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

import torch
from rich.progress import Progress

from videonorm.bench.records import Row, sentence

SILENT_SECONDS = 600  # a process that gives no answer for so long is ended
FFMPEG = ("avutil", "avcodec", "avformat", "avfilter", "avdevice", "swscale", "swresample")


class Plan(NamedTuple):
    """What a contender is to do."""

    loader: str
    cases: Sequence[Row]  # what the benchmark's `trial` needs of each, as JSON


def take_turns(module: str, plans: Sequence[Plan], rounds: int, progress: Progress) -> Iterator[Row]:
    """Run every plan in a fresh process, one after the other, round after round.

    A case that failed is not tried again.

    Args:
        module: its ``trial(loader, case)`` measures a case, in the fresh process.

    Yields:
        An answer for each case and round: what ``trial`` returned, or ``error``; with ``loader`` and the
        number of the ``case`` in the plan.
    """
    failed: set[tuple[str, int]] = set()
    total = rounds * sum(len(plan.cases) for plan in plans)
    task = progress.add_task("", total=total)
    for _ in range(rounds):
        for plan in plans:
            progress.update(task, description=plan.loader)
            numbers = [n for n in range(len(plan.cases)) if (plan.loader, n) not in failed]
            progress.advance(task, len(plan.cases) - len(numbers))
            for answer in _answers(module, plan, numbers):
                progress.advance(task)
                if answer.get("error"):
                    failed.add((plan.loader, answer["case"]))
                yield answer | {"loader": plan.loader}


def _answers(module: str, plan: Plan, numbers: Sequence[int]) -> Iterator[Row]:
    if not numbers:
        return
    work = json.dumps([module, plan.loader, [plan.cases[number] for number in numbers]])
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "videonorm.bench.trial"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | library_path(Path(folder)),
            start_new_session=True,  # so that its workers end with it
        )
        assert process.stdin and process.stdout
        answered = 0
        try:
            process.stdin.write(work)
            process.stdin.close()
            while line := _line(process):
                yield json.loads(line) | {"case": numbers[answered]}
                answered += 1
            process.wait()
        finally:
            _end(process)
        if answered < len(numbers):
            log.seek(0)
            last = log.read().strip().rpartition("\n")[2]
            code = process.returncode
            how = f"its process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
            for number in numbers[answered:]:
                yield {"case": number, "error": " ".join(f"{how}: {last}".split())[:300]}


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    timer = Timer(SILENT_SECONDS, _end, [process])
    timer.start()
    try:
        return process.stdout.readline()
    finally:
        timer.cancel()


def _end(process: "subprocess.Popen[str]") -> None:
    """Kill a process and what it started. Nothing is left running when the next has its turn."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def library_path(folder: Path) -> dict[str, str]:
    """An environment in which torchcodec, which brings no FFmpeg, finds the one that PyAV brings.

    So the decoders do not differ by their FFmpeg. Where PyAV brings none, nothing is changed.

    Args:
        folder: for links to the libraries under the names that torchcodec looks for.
    """
    import av

    libraries = Path(av.__file__).parents[1] / "av.libs"
    for library in libraries.glob("*.so.*"):
        name, _, version = library.name.partition(".so.")
        stem = name.partition("-")[0]
        if stem.removeprefix("lib") in FFMPEG:
            (folder / f"{stem}.so.{version.partition('.')[0]}").symlink_to(library)
    if not any(folder.iterdir()):
        return {}
    paths = [str(folder), str(libraries), os.environ.get("LD_LIBRARY_PATH", "")]
    return {"LD_LIBRARY_PATH": ":".join(filter(None, paths))}


class Cost:
    """Use as a context: the seconds that pass, and those of CPU time of this process and all below it."""

    seconds: float
    cpu_seconds: float

    def __enter__(self) -> "Cost":
        self.cpu_seconds = -_cpu_seconds()
        self.seconds = -time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter()
        self.cpu_seconds += _cpu_seconds()


def family() -> list[int]:
    """This process and all that it started, directly or not, as far as they run."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if fields := _stat(int(folder.name)):
            parents[int(folder.name)] = int(fields[1])
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def peak_mib(pid: int) -> float | None:
    """The most memory that a process has had resident."""
    return _kib(Path(f"/proc/{pid}/status"), "VmHWM:")


def private_mib(pid: int) -> float | None:
    """The memory that only this process has (its unique set size)."""
    path = Path(f"/proc/{pid}/smaps_rollup")
    clean, dirty = _kib(path, "Private_Clean:"), _kib(path, "Private_Dirty:")
    return None if clean is None or dirty is None else clean + dirty


def _kib(path: Path, name: str) -> float | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), None)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat behind the name, which may hold blanks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _cpu_seconds() -> float:
    """User and system time, with that of children that have ended."""
    ended = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    alive = [fields for pid in family()[1:] if (fields := _stat(pid))]
    ticks = sum(sum(map(int, fields[11:15])) for fields in alive)
    return sum(usage.ru_utime + usage.ru_stime for usage in ended) + ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """The fresh process: read the work from stdin, answer on what was stdout."""
    # Whatever else is printed, here or by a library in C, goes to the log.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    module, loader, cases = json.load(sys.stdin)
    torch.set_num_threads(1)  # more would wait for one another, in time that counts
    # Where a decoder leaves a file to pyav, here or in a worker forked from here, it is not the one measured.
    warnings.filterwarnings("error", ".* is read by pyav")
    trial = importlib.import_module(module).trial
    for case in cases:
        try:
            answer: Mapping[str, Any] = trial(loader, case)
        except Exception as error:
            answer = {"error": sentence(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
