"""Trials: what each contender does in a process of its own, with nobody else running.

One process for all would not be fair: the allocator and the threads of one contender slow down the next.
A process is told what to do as JSON and answers with a line of JSON for each case. To import and to prepare
is not part of any time.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

from videonorm.bench.records import Row, sentence
from videonorm.processes import end, family, started, stat

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    from rich.progress import Progress

SILENT_SECONDS = 600  # a process that gives no answer for so long is ended
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}  # torch's wait for one another, in time that counts
FFMPEG = ("avutil", "avcodec", "avformat", "avfilter", "avdevice", "swscale", "swresample")


@dataclass
class Trial:
    """What a contender is to do, and what came of it.

    Attributes:
        case: what the benchmark's ``trial`` needs, as JSON; its ``loader`` is the contender.
        rounds: how often it is done.
        answers: of the rounds so far: what ``trial`` returned, or ``error``.
    """

    case: Row
    rounds: int
    answers: list[Row] = field(default_factory=list)

    @property
    def error(self) -> str | None:
        return next((answer["error"] for answer in self.answers if answer.get("error")), None)


def take_turns(module: str, processes: Sequence[Sequence[Trial]], progress: Progress) -> None:
    """Run the trials of each process in a fresh one, process after process, round after round.

    A case that failed is not tried again. Answers are entered as they come.

    Args:
        module: its ``trial(case)`` measures a case, in the fresh process.
    """
    everything = [trial for trials in processes for trial in trials]
    task = progress.add_task("", total=sum(trial.rounds for trial in everything))
    for turn in range(max((trial.rounds for trial in everything), default=0)):
        for trials in processes:
            due = [trial for trial in trials if turn < trial.rounds]
            todo = [trial for trial in due if not trial.error]
            progress.advance(task, len(due) - len(todo))
            if todo:
                progress.update(task, description=todo[0].case["loader"])
                answers = _answers(module, [trial.case for trial in todo])
                for answer, trial in zip(answers, todo, strict=True):
                    trial.answers.append(answer)
                    progress.advance(task)


def _answers(module: str, cases: Sequence[Row]) -> Iterator[Row]:
    """Of a fresh process, one for each case."""
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory() as folder:
        environment = os.environ | ONE_THREAD | library_path(Path(folder))
        command = [sys.executable, "-m", "videonorm.bench.trial"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
        answered = 0
        with started(command, env=environment, **pipes) as process:
            assert process.stdin
            json.dump([module, cases], process.stdin)
            process.stdin.close()
            while line := _line(process):
                yield json.loads(line)
                answered += 1
            process.wait()
        if answered < len(cases):
            log.seek(0)
            last = log.read().strip().rpartition("\n")[2]
            code = process.returncode
            how = f"its process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
            for _ in cases[answered:]:
                yield {"error": " ".join(f"{how}: {last}".split())[:300]}


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    timer = Timer(SILENT_SECONDS, end, [process])
    timer.start()
    try:
        return process.stdout.readline()
    finally:
        timer.cancel()


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

    def __enter__(self) -> Cost:
        self.cpu_seconds = -_cpu_seconds()
        self.seconds = -time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter()
        self.cpu_seconds += _cpu_seconds()


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


def _cpu_seconds() -> float:
    """User and system time, with that of children that have ended."""
    ended = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    alive = [fields for pid in family()[1:] if (fields := stat(pid))]
    ticks = sum(sum(map(int, fields[11:15])) for fields in alive)
    return sum(usage.ru_utime + usage.ru_stime for usage in ended) + ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """The fresh process: read the work from stdin, answer on what was stdout."""
    # Whatever else is printed, here or by a library in C, goes to the log.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    module, cases = json.load(sys.stdin)
    # Where a decoder leaves a file to pyav, here or in a worker forked from here, it is not the one measured.
    warnings.filterwarnings("error", ".* is read by pyav")
    trial = importlib.import_module(module).trial
    for case in cases:
        try:
            answer: Mapping[str, Any] = trial(case)
        except Exception as error:
            answer = {"error": sentence(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
