"""Too little memory for the clips of a training: an error in one sentence, on a CPU too."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

MEMORY = Path("/proc/meminfo")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is of a GPU's allocator or the CPU's, which has no class of its own, or of Python's."""
    is_of_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return is_of_cpu or isinstance(error, torch.OutOfMemoryError | MemoryError)


@contextmanager
def limited_to_memory() -> Iterator[None]:
    """To take more memory than the machine has, swap included, is an error inside.

    Linux else grants it, and kills the process without a word when it is used; other systems are left alone.
    """
    if not MEMORY.exists():
        yield
        return
    import resource  # not on Windows

    sizes = dict(line.split()[:2] for line in MEMORY.read_text().splitlines())
    in_machine = (int(sizes["MemTotal:"]) + int(sizes["SwapTotal:"])) * 2**10
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = in_machine if soft == resource.RLIM_INFINITY else min(soft, in_machine)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
