"""A task on each of many videos, in processes that may hang or crash: the video is named, the rest go on."""

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Failed(NamedTuple):
    """In place of a result; ``reason`` completes the sentence "the video ..."."""

    reason: str
    stop: bool = False  # nothing that follows can succeed either


def run_all(
    task: Callable[[Item], Result | Failed], items: Sequence[Item], *, jobs: int, time_limit: float
) -> Iterator[tuple[int, Result | Failed]]:
    """Run ``task`` on every item; yields (position in ``items``, result) as they end, in any order.

    Args:
        task: a function of a module; what it raises becomes ``Failed``.
        jobs: processes at a time.
        time_limit: seconds after which an item's process is killed.
    """
    # Not fork: a progress bar's thread may hold a lock. Not spawn: each would import torch anew.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["videonorm.data"])
    waiting = deque(range(len(items)))
    workers = [_Worker(context, task) for _ in range(min(jobs, len(items)))]
    try:
        left = len(items)
        while left:
            now = time.monotonic()
            busy = [worker for worker in workers if worker.item is not None]
            soonest = min((worker.started + time_limit - now for worker in busy), default=None)
            timeout = None if soonest is None else max(soonest, 0.0)
            ready = wait([worker.connection for worker in workers], timeout)
            for worker in list(workers):
                done: tuple[int, Any] | None = None
                if worker.connection in ready:
                    try:
                        result = worker.connection.recv()
                    except (EOFError, OSError):
                        result = Failed(worker.how_it_ended())
                        if worker.item is None:
                            raise RuntimeError(f"a worker {result.reason} before its first video") from None
                        workers[workers.index(worker)] = _Worker(context, task)
                    if worker.item is not None:
                        done = worker.item, result
                    if worker in workers:
                        worker.give(items, waiting)
                elif worker.item is not None and time.monotonic() - worker.started >= time_limit:
                    done = worker.item, Failed(f"took longer than {time_limit:g} s")
                    worker.process.kill()
                    workers[workers.index(worker)] = _Worker(context, task)
                if done:
                    left -= 1
                    yield done
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()


class _Worker:
    def __init__(self, context: ForkServerContext, task: Callable[[Any], Any]) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(task, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.item: int | None = None  # None until the process says that it is ready
        self.started = 0.0

    def give(self, items: Sequence[Any], waiting: "deque[int]") -> None:
        self.item = waiting.popleft() if waiting else None
        if self.item is not None:
            self.started = time.monotonic()
            self.connection.send(items[self.item])

    def how_it_ended(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        return f"crashed the decoder ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


def _serve(task: Callable[[Any], Any], connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the rest
    result = None
    try:
        while True:
            connection.send(result)
            item = connection.recv()
            try:
                result = task(item)
            except Exception as error:
                result = Failed(f"cannot be processed: {type(error).__name__}: {error}")
    except (EOFError, OSError):
        os._exit(0)  # the process that gave the work is gone
