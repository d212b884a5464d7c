"""A task on each of many videos, in processes that may hang or crash: the video is named, the rest go on."""

import errno
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from script import progress

Item = TypeVar("Item")
Result = TypeVar("Result")

# Of the output: no later video can succeed either.
FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class Failed(NamedTuple):
    """In place of a result; ``reason`` completes the sentence "the video ..."."""

    reason: str


def run_all(
    task: Callable[[Item], Result], items: Sequence[Item], title: str, options: Namespace
) -> Iterable[tuple[int, Result | Failed]]:
    """Run ``task`` on every item, with a bar on the terminal.

    Yields (position in ``items``, result) as they end, in any order.

    Args:
        task: a function of a module; for what it raises see ``attempt``.
        options: those of ``script.add_work``.

    Raises:
        OSError: no later item can succeed either.
    """
    results = _results(task, items, min(options.num_workers, len(items)), options.time_limit_seconds)
    return progress(results, title, len(items))


def _results(
    task: Callable[[Item], Result], items: Sequence[Item], num_workers: int, time_limit_seconds: float
) -> Iterator[tuple[int, Result | Failed]]:
    from videonorm.data import Workers  # heavy: --help answers without it

    if not items:
        return
    # Not fork: a progress bar's thread may hold a lock. Not spawn: each would import torch anew.
    with Workers(num_workers, time_limit_seconds, "forkserver", preload=("videonorm.data",)) as workers:
        number = workers.add(partial(_run, task))
        left = iter(enumerate(items))
        running: dict[Future[Any], int] = {}
        while True:
            for position, item in islice(left, 2 * num_workers - len(running)):
                running[workers.submit(number, item)] = position
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), _result(future)


def _result(future: "Future[Any]") -> Any:
    from videonorm.data import WorkerDied

    try:
        return future.result()
    except WorkerDied as death:
        if death.number is None:
            raise
        return Failed(death.reason)


def _run(task: Callable[[Any], Any], item: Any, note: Callable[[int | None], None]) -> Any:
    note(0)
    return attempt(task, item)


def attempt(task: Callable[[Item], Result], item: Item) -> Result | Failed:
    """Run ``task``; ``Failed`` for a video that cannot be used, and for whatever else it raises.

    Raises:
        OSError: no later item can succeed either.
    """
    from videonorm.data import BadVideoError

    try:
        return task(item)
    except BadVideoError as error:
        return Failed(error.reason)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FATAL:
            raise OSError(error.errno, error.strerror) from error
        return Failed(f"cannot be processed: {type(error).__name__}: {error}")
