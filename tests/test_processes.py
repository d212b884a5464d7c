"""Nothing runs on behind the block that started it."""

import os
import signal
import subprocess
import sys
import time

from running import runs

from videonorm.processes import family, started

# Starts one process in its own group and one in another, tells their numbers, and waits.
PARENT = """
import subprocess, sys
sleep = [sys.executable, "-c", "import time; time.sleep(1000)"]
own, other = subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)
print(own.pid, other.pid, flush=True)
own.wait()
"""


def test_children_end_in_whatever_group():
    with started([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as process:
        pids = [process.pid, *map(int, process.stdout.readline().split())]
        assert len(set(pids)) == 3 and all(map(runs, pids))
        assert family(process.pid) == pids and set(pids) < set(family())
        assert len({os.getpgid(pid) for pid in pids}) == 2
    while any(map(runs, pids)):  # they have been killed, and may need a moment
        time.sleep(0.01)
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()
