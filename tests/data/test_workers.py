"""Tasks that end in every way that a decoder can."""

import faulthandler
import importlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError, Future
from pathlib import Path

import pytest
import torch

from videonorm.data.workers import WorkerDied, Workers
from videonorm.errors import UserError


def task(item, note):
    faulthandler.disable()  # pytest's
    kind, number = item
    note(number)
    match kind:
        case "double":
            return 2 * number
        case "tensor":
            return torch.full((number,), number)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(1000)
        case "killed between":
            note(None)
            os.kill(os.getpid(), signal.SIGKILL)
        case "full":
            note(None)
            os.kill(os.getpid(), signal.SIGBUS)
        case "mistake":
            raise UserError("number (3) must be even")
        case "cannot travel":
            raise Local("x")
        case "sleep":
            time.sleep(number / 1000)
        case "pid":
            return os.getpid()


class Local(Exception):
    def __init__(self, text):
        super().__init__(text, lambda: None)


@pytest.fixture
def workers():
    with Workers(2, time_limit_seconds=1.0, start_method="fork") as workers:
        workers.add(task)
        yield workers


def failure(future: Future) -> BaseException:
    error = future.exception(timeout=30)
    assert error is not None
    return error


def test_every_item_has_its_own_result(workers):
    futures = [workers.submit(0, ("double", number)) for number in range(50)]
    assert [future.result(30) for future in futures] == [2 * number for number in range(50)]


def test_tensors_arrive_whole_and_finished(workers):
    futures = [workers.submit(0, ("tensor", 10_000 + n), finish=lambda t: t + 1) for n in range(20)]
    for n, future in enumerate(futures):
        assert torch.equal(future.result(30), torch.full((10_000 + n,), 10_001 + n))


def test_a_crash_and_a_hang_are_named_and_the_rest_goes_on(workers):
    kinds = ["double", "crash", "double", "hang", "double", "double", "crash", "double", "double"]
    futures = [workers.submit(0, (kind, number)) for number, kind in enumerate(kinds)]
    for number, (kind, future) in enumerate(zip(kinds, futures, strict=True)):
        if kind == "double":
            assert future.result(30) == 2 * number
            continue
        error = failure(future)
        assert isinstance(error, WorkerDied)
        reason = "crashed the decoder (SIGSEGV)" if kind == "crash" else "took longer than 1 s"
        assert (error.number, error.reason) == (number, reason)


def test_many_short_pieces_may_take_longer_than_the_limit_together(workers):
    futures = [workers.submit(0, ("sleep", 300)) for _ in range(12)]
    assert [future.result(30) for future in futures] == [None] * 12


def test_what_dies_between_two_pieces_is_no_video(workers):
    error = failure(workers.submit(0, ("killed between", 3)))
    assert isinstance(error, WorkerDied) and error.number is None
    assert str(error).startswith("a worker process had its process killed (SIGKILL")
    assert "/dev/shm" in str(failure(workers.submit(0, ("full", 3))))
    assert workers.submit(0, ("double", 4)).result(30) == 8


def test_errors_travel(workers):
    with pytest.raises(UserError, match=r"number \(3\) must be even"):
        workers.submit(0, ("mistake", 3)).result(30)
    with pytest.raises(RuntimeError, match="(?s)in a worker process: .*Local"):
        workers.submit(0, ("cannot travel", 3)).result(30)
    with pytest.raises(ZeroDivisionError):
        workers.submit(0, ("double", 3), finish=lambda number: number / 0).result(30)
    assert workers.submit(0, ("double", 4)).result(30) == 8


TASKS = """
def first(item, note):
    return item

def second(item, note):
    return (item,)
"""


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_task_added_later_is_sent_to_processes_that_run(tmp_path, monkeypatch, start_method):
    (tmp_path / "tasks_of_a_pool.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    tasks = importlib.import_module("tasks_of_a_pool")
    with Workers(1, 30, start_method=start_method) as workers:
        first = workers.add(tasks.first)
        assert workers.submit(first, 1).result(60) == 1
        second = workers.add(tasks.second)
        assert [workers.submit(second, n).result(30) for n in (1, 2)] == [(1,), (2,)]


def test_a_worker_killed_while_it_waits_is_replaced(workers):
    pids = {workers.submit(0, ("pid", 0)).result(30) for _ in range(20)}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    later = {workers.submit(0, ("pid", 0)).result(30) for _ in range(20)}
    assert later and not later & pids


def test_closing_ends_the_processes_and_cancels_what_waits():
    workers = Workers(1, 30, start_method="fork")
    workers.add(task)
    pid = workers.submit(0, ("pid", 0)).result(30)
    futures = [workers.submit(0, ("hang", 0)) for _ in range(5)]
    workers.close()
    for future in futures:
        with pytest.raises((CancelledError, RuntimeError)):
            future.result(10)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(RuntimeError, match="the workers are closed"):
        workers.submit(0, ("double", 1))


PARENT = """
import os, signal, sys, time
from videonorm.data.workers import Workers

def pid(item, note):
    time.sleep(item)
    return os.getpid()

workers = Workers(2, 30, start_method="fork")
workers.add(pid)
print(*{future.result() for future in [workers.submit(0, 0.2) for _ in range(4)]}, flush=True)
for _ in range(2):
    workers.submit(0, 1000)  # as a decoder that hangs
time.sleep(0.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_processes_end_with_a_parent_that_is_killed():
    finished = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, timeout=60)
    pids = [int(word) for word in finished.stdout.split()]
    assert pids, finished.stderr
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 1.0), r"num_workers \(0\) must be at least 1"),
        ((1, 0.0), r"time_limit_seconds \(0.0\) must be above 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        Workers(*arguments)
