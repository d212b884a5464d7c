"""Nothing runs on behind the block that started it."""

import os
import subprocess
import sys
import time

from videonorm.processes import family, started, stat

# Starts one process in its own group and one in another, tells their numbers, and waits.
PARENT = """
import subprocess, sys
sleep = [sys.executable, "-c", "import time; time.sleep(1000)"]
own, other = subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)
print(own.pid, other.pid, flush=True)
own.wait()
"""


def runs(pid: int) -> bool:
    """A zombie, which nobody has asked for how it ended, does not."""
    fields = stat(pid)
    return fields is not None and fields[0] != "Z"


def test_children_end_in_whatever_group():
    with started([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as process:
        pids = [process.pid, *map(int, process.stdout.readline().split())]
        assert len(set(pids)) == 3 and all(map(runs, pids))
        assert family(process.pid) == pids and set(pids) < set(family())
        assert len({os.getpgid(pid) for pid in pids}) == 2
    while any(map(runs, pids)):  # they have been killed, and may need a moment
        time.sleep(0.01)
    process.stdout.close()
