"""Processes that run tasks which may hang or crash: what was in work is named, and the rest goes on."""

import ctypes
import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Literal, NamedTuple, Protocol, Self

import torch
import torch.multiprocessing  # tensors then travel between processes in shared memory

from videonorm.errors import UserError

_QUEUED = 2  # tasks of a worker: the one in work, and the next, so that it never waits
_PARENT_CHECK_SECONDS = 1.0


class Note(Protocol):
    """A task says what it begins to work on, by a number of its own, or None between two of them.

    The time limit runs from there, and it is what ``WorkerDied`` names.
    """

    def __call__(self, number: int | None) -> None: ...


class WorkerDied(Exception):
    """The process of a task crashed, or was killed as it took too long.

    ``reason`` completes the sentence "the video ..."; ``number`` is what the task noted last.
    """

    def __init__(self, number: int | None, reason: str) -> None:
        super().__init__(number, reason)
        self.number = number
        self.reason = reason

    def __str__(self) -> str:
        return f"a worker process {self.reason}"


class _Work(NamedTuple):
    task: int
    item: Any
    finish: Callable[[Any], Any] | None
    future: "Future[Any]"


class Workers:
    """A pool of processes, for any number of loaders and threads at a time. Close it, best by ``with``.

    Args:
        num_workers: processes, at least 1.
        time_limit_seconds: how long one noted piece of a task may take before its process is killed.
        start_method: of Python's multiprocessing; ``None`` is its default, as for torch's DataLoader.
        preload: modules that a fork server imports once, for all processes.
    """

    def __init__(
        self,
        num_workers: int,
        time_limit_seconds: float,
        start_method: Literal["fork", "spawn", "forkserver"] | None = None,
        preload: Sequence[str] = (),
    ) -> None:
        if num_workers < 1:
            raise UserError(f"num_workers ({num_workers}) must be at least 1")
        if not time_limit_seconds > 0:
            raise UserError(f"time_limit_seconds ({time_limit_seconds}) must be above 0")
        self.num_workers = num_workers
        self.time_limit_seconds = time_limit_seconds
        self._context: Any = multiprocessing.get_context(start_method)
        if preload:
            self._context.set_forkserver_preload(list(preload))
        self._tasks: list[Callable[[Any, Note], Any]] = []
        self._workers: list[_Worker] = []
        self._waiting: deque[_Work] = deque()
        self._lock = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._woken, self._wake = Pipe(duplex=False)

    def add(self, task: Callable[[Any, Note], Any]) -> int:
        """Make a task known: it must be picklable. Returns its number, for ``submit``.

        Processes that run already are sent it once; what it holds is not sent again.
        """
        with self._lock:
            self._tasks.append(task)
            return len(self._tasks) - 1

    def submit(self, task: int, item: Any, finish: Callable[[Any], Any] | None = None) -> "Future[Any]":
        """Run a task on an item. Its exception is the future's; so is ``WorkerDied``.

        Args:
            finish: called on the result by a thread of this process; the future has what it returns.
        """
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the workers are closed")
            self._waiting.append(_Work(task, item, finish, future))
            if self._thread is None:
                _give_back_free_memory()
                self._workers = [_Worker(self._context, self._tasks) for _ in range(self.num_workers)]
                self._thread = threading.Thread(target=self._dispatch, name="video workers", daemon=True)
                self._thread.start()
        self._wake.send_bytes(b"\0")
        return future

    def close(self) -> None:
        """End the processes; futures that are not done are cancelled."""
        with self._lock:
            self._closed = True
        self._wake.send_bytes(b"\0")
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The thread

    def _dispatch(self) -> None:
        failure: BaseException | None = None
        try:
            while not self._closed:
                self._give()
                busy = any(worker.given for worker in self._workers)
                ends = [self._woken, *(worker.connection for worker in self._workers)]
                ready = wait(ends, min(1.0, self.time_limit_seconds / 4) if busy else None)
                if self._woken in ready:
                    while self._woken.poll():
                        self._woken.recv_bytes()
                for position, worker in enumerate(self._workers):
                    if worker.connection in ready:
                        self._receive(position)
                    elif worker.overdue(self.time_limit_seconds):
                        self._replace(position, f"took longer than {self.time_limit_seconds:g} s")
        except BaseException as error:
            failure = error
        with self._lock:
            self._closed = True
        for work in [*self._waiting, *(work for worker in self._workers for work in worker.given)]:
            # Whoever waits must not wait for ever.
            if not work.future.done() and (failure or not work.future.cancel()):
                work.future.set_exception(failure or RuntimeError("the workers were closed"))
        for worker in self._workers:
            worker.end()

    def _give(self) -> None:
        """Hand out what waits, to those first who have least."""
        for depth in range(1, _QUEUED + 1):
            for position, worker in enumerate(self._workers):
                while len(worker.given) < depth:
                    with self._lock:
                        if not self._waiting:
                            return
                        work = self._waiting.popleft()
                        task = self._tasks[work.task]
                    if not work.future.running() and not work.future.set_running_or_notify_cancel():
                        continue
                    worker.given.append(work)
                    try:
                        worker.send(work, task)
                    except (BrokenPipeError, ConnectionResetError):
                        self._replace(position, None)
                        break

    def _receive(self, position: int) -> None:
        worker = self._workers[position]
        try:
            result, error = worker.connection.recv()
        except (EOFError, OSError):  # OSError: it died before its tensors could be fetched
            self._replace(position, None)
            return
        work = worker.given.popleft()
        worker.answers += 1
        try:
            if error is None and work.finish is not None:
                result = work.finish(result)
        except Exception as failure:
            error = failure
        if error is None:
            work.future.set_result(result)
        else:
            work.future.set_exception(error)

    def _replace(self, position: int, reason: str | None) -> None:
        """Start another process in place of one that died, or that is to be killed for a reason."""
        worker = self._workers[position]
        code = worker.end()
        number, given = worker.number, worker.given
        again = [given.popleft() for _ in range(worker.lost_answers)]
        self._workers[position] = _Worker(self._context, self._tasks)
        if given and worker.died_at_work:
            died: Exception = WorkerDied(number, reason or _how_it_ended(code))
            if number is None and code == -signal.SIGBUS:
                died = UserError("num_workers must be 0 or /dev/shm larger: batches do not fit into it")
            given.popleft().future.set_exception(died)
        with self._lock:
            self._waiting.extendleft(reversed([*again, *given]))


class _State(ctypes.Structure):
    """What a process says of itself, in memory that both sides see: it outlives the process."""

    number: int  # noted, counted from 1; or 0
    notes: int  # so far
    begun: int  # tasks
    done: int
    _fields_ = [(name, ctypes.c_int64) for name in ("number", "notes", "begun", "done")]


class _Worker:
    def __init__(self, context: Any, tasks: list[Callable[[Any, Note], Any]]) -> None:
        self.connection, theirs = Pipe()
        self._state: _State = context.RawValue(_State)
        self._known = set(range(len(tasks)))
        self._process = context.Process(
            target=_serve, args=(theirs, self._state, dict(enumerate(tasks))), daemon=True
        )
        self._process.start()
        theirs.close()
        self.given: deque[_Work] = deque()
        self.answers = 0
        self._notes = 0
        self._noted_at = time.monotonic()

    def send(self, work: _Work, task: Callable[[Any, Note], Any]) -> None:
        new = None if work.task in self._known else task
        self._known.add(work.task)
        self.connection.send((work.task, new, work.item))

    @property
    def number(self) -> int | None:
        """What is in work."""
        return self._state.number - 1 if self._state.number else None

    @property
    def lost_answers(self) -> int:
        """Tasks that it finished, but whose results did not arrive whole."""
        return self._state.done - self.answers

    @property
    def died_at_work(self) -> bool:
        """Whether it had begun a task that it did not finish; or none at all, so that no other will."""
        return self._state.begun == 0 or self._state.begun > self._state.done

    def overdue(self, seconds: float) -> bool:
        """Whether what is in work has been so for longer than that, as far as was seen from here."""
        if self._state.notes != self._notes or self.number is None:
            self._notes = self._state.notes
            self._noted_at = time.monotonic()
        return time.monotonic() - self._noted_at > seconds

    def end(self) -> int:
        """Kill the process if it lives; its exit code."""
        if not self._process.is_alive():
            self._process.join()
        self._process.kill()
        self._process.join()
        self.connection.close()
        return self._process.exitcode or 0


def _give_back_free_memory() -> None:
    """What this process has freed but malloc keeps would become a forked worker's own, page by page."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)


def _how_it_ended(code: int) -> str:
    if code == -signal.SIGKILL:
        return "had its process killed (SIGKILL, which is also how a system short of memory ends one)"
    return f"crashed the decoder ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


def _serve(connection: Connection, state: _State, tasks: dict[int, Callable[[Any, Note], Any]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the rest
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a handler of the parent would be inherited
    # A collection would write to every object inherited, and so copy the memory shared with the parent.
    gc.freeze()
    torch.set_num_threads(1)  # the cores are taken by the other workers; and OpenMP does not survive a fork

    def note(number: int | None) -> None:
        state.number = 0 if number is None else number + 1
        state.notes += 1

    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        while True:
            number, task, item = connection.recv()
            tasks.setdefault(number, task)
            state.begun += 1
            answer: tuple[Any, Exception | None]
            try:
                answer = tasks[number](item, note), None
            except Exception as error:
                answer = None, _portable(error)
            note(None)
            state.done += 1
            connection.send(answer)
    except (EOFError, OSError):
        os._exit(0)  # the process that gave the work is gone


def _end_with_parent(parent_id: int) -> None:
    """End this process once the one that started it is gone, in the middle of a video too."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    # Its pipe does not close with it while another worker holds a copy of its end.
    while not wait([parent.sentinel], _PARENT_CHECK_SECONDS) and os.getppid() == parent_id:
        pass
    os._exit(0)


def _portable(error: Exception) -> Exception:
    """The error with its traceback, or where it cannot travel between processes only the text."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"in a worker process: {text}")
    error.add_note(text)
    return error
