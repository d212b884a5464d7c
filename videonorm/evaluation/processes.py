"""Several processes of one evaluation: which one this is, how they are started and wait for each other.

What they score travels in files (see ``parts``). A process group, gloo's on the CPU, only tells the first
process when all the others are done; it is torchrun's, or that of ``run_in_processes``.
"""

import os
import socket
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from videonorm.errors import UserError
from videonorm.machine import available_cores
from videonorm.messages import of_warning

PATIENCE = timedelta(days=30)  # shares may end hours apart; the end of a process is noticed at once
MISTAKE = f"{UserError.__module__}.{UserError.__qualname__}: "


@dataclass(frozen=True)
class Processes:
    """All of an evaluation's, and which this one is; ``local_rank`` is its number on this machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Self:
        """As torchrun tells them."""
        names = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": environment.get("RANK", "0")}
        given = {name: environment.get(name, default) for name, default in names.items()}
        for name, value in given.items():
            if not (value.isascii() and value.isdigit()):
                raise UserError(f"{name} ({value}) must be a whole number, as torchrun sets it")
        processes = cls(*map(int, given.values()))
        if processes.rank >= processes.count:
            raise UserError(f"RANK ({processes.rank}) must be below WORLD_SIZE ({processes.count})")
        return processes

    def wait_for_each_other(self) -> None:
        """Return once every process has come here."""
        if self.count == 1:
            return
        import torch.distributed as dist

        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=PATIENCE)
        dist.barrier()


def run_in_processes(count: int, run: Callable[[Any], None], options: Any) -> None:
    """Call ``run(options)`` in ``count`` processes of this machine, in the environment that torchrun sets.

    Raises:
        UserError: that of the first process which has one; the others are ended.
    """
    from torch.multiprocessing.spawn import ProcessRaisedException, start_processes

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = count, port, run, options
    start: Any = start_processes  # it has no annotations
    context = start(_process, given, nprocs=count, join=False, start_method="spawn")
    try:
        while not context.join():
            pass
    except ProcessRaisedException as error:
        last = str(error).strip().rpartition("\n")[2]
        if last.startswith(MISTAKE):
            raise UserError(last.removeprefix(MISTAKE)) from None
        raise
    finally:
        for process in context.processes:
            process.terminate()
            process.join()


def _process(rank: int, count: int, port: int, run: Callable[[Any], None], options: Any) -> None:
    import torch

    os.environ.update(RANK=str(rank), WORLD_SIZE=str(count), LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    warnings.formatwarning = of_warning  # as in the process that started this one
    if rank:
        warnings.simplefilter("ignore")  # one of them speaks
    torch.set_num_threads(min(torch.get_num_threads(), max(1, available_cores() // count)))
    run(options)
