"""A program that uses the loader as it is ends within seconds, however it ends, and leaves no process."""

import os
import signal
import subprocess
import sys
import time

import pytest

SECONDS = 10.0

# A program of its own: python -c PROGRAM VIDEO NUM_WORKERS works|hangs on|exception
PROGRAM = """
from itertools import chain, repeat
import sys, time
from pathlib import Path

import torch

from videonorm.data import Entries, Entry, Manifest, RandomClips, VideoDataset, VideoLoader, dataset
from videonorm.data.loader import decoding_workers

path, num_workers, decoder, how = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
real, opened = dataset.open_video, iter(range(5))

def open_or_hang(*arguments):
    next(opened, None) is not None or time.sleep(1000)
    return real(*arguments)

if decoder == "hangs":
    dataset.open_video = open_or_hang
entries = Entries.of([Entry(path, 0, 0.0, 1 + number / 1e6) for number in range(50_000)])
manifest = Manifest(Path("/nowhere/m.csv"), entries, num_classes=1)
workers = decoding_workers(num_workers, "auto", 600, torch.device("cpu"))
data = VideoDataset(manifest, RandomClips(2, 1), replace_bad=True)
epochs = repeat(VideoLoader(data, 1, workers))  # without an end, should the one who is to stop it be slow
for number, _ in enumerate(chain.from_iterable(epochs)):  # nothing is closed
    if number == 3:
        print("started", flush=True)
        if how == "exception":
            raise RuntimeError("as a model would")
"""


def processes_of(group):
    """Processes of a group that live, zombies not counted (Linux)."""
    found = subprocess.run(["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True).stdout
    return [state for state in found.split() if not state.startswith("Z")]


QUICK = [("works", signal.SIGINT, 0), ("hangs", signal.SIGTERM, 2)]
CASES = [
    ("works", how, num_workers)
    for how in ("exception", signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    for num_workers in (0, 2)
] + [("hangs", how, 2) for how in ("exception", signal.SIGINT, signal.SIGTERM, signal.SIGKILL)]
CODES = {"exception": 1, signal.SIGINT: -signal.SIGINT, signal.SIGTERM: -signal.SIGTERM, signal.SIGKILL: -9}


@pytest.mark.parametrize(
    "decoder, how, num_workers",
    [pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in CASES],
)
def test_nothing_is_left(decoder, how, num_workers, videos):
    arguments = [videos("intra.mp4"), str(num_workers), decoder, "exception" if how == "exception" else "on"]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"started\n"
        deadline = time.monotonic() + SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if how != "exception":  # again: one that falls into a callback of a library is lost in Python
                os.kill(process.pid, how)
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                continue
        assert process.returncode == CODES[how]
        while left := processes_of(process.pid):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
    finally:
        if processes_of(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
