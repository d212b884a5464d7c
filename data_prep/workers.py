"""A task on each of many videos, in processes that may hang or crash: the video is named, the rest go on."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from itertools import islice
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
    from videonorm.data import Workers  # heavy: --help answers without it

    if not items:
        return
    jobs = min(jobs, len(items))
    # Not fork: a progress bar's thread may hold a lock. Not spawn: each would import torch anew.
    with Workers(jobs, time_limit, "forkserver", preload=("videonorm.data",)) as workers:
        number = workers.add(partial(_run, task))
        left = iter(enumerate(items))
        running: dict[Future[Any], int] = {}
        while True:
            for position, item in islice(left, 2 * jobs - len(running)):
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
    try:
        return task(item)
    except Exception as error:
        return Failed(f"cannot be processed: {type(error).__name__}: {error}")
