"""A program that uses the loader as it is ends within seconds, however it ends, and leaves no process."""

import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from videonorm.data import Entries, Entry, Manifest, RandomClips, VideoDataset, VideoLoader, dataset
from videonorm.data import loader as loader_module
from videonorm.data.loader import decoding_workers

SECONDS = 10.0


def use(path, num_workers, how, started):
    """Load without end, in a session of its own; nothing is closed."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the traceback
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # other tests may have left handlers
    entries = Entries.of([Entry(path, 0, 0.0, 1 + number / 1e6) for number in range(5000)])
    manifest = Manifest(Path("/nowhere/m.csv"), entries, num_classes=1)
    workers = decoding_workers(num_workers, "auto", 600, loader_module.torch.device("cpu"))
    data = VideoDataset(manifest, RandomClips(2, 1), replace_bad=True)
    for number, _ in enumerate(VideoLoader(data, 1, workers)):
        if number == 3:
            started.send(None)
            if how == "exception":
                raise RuntimeError("as a model would")


def processes_of(group):
    """Processes of a group that live, zombies not counted (Linux)."""
    found = subprocess.run(["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True).stdout
    return [state for state in found.split() if not state.startswith("Z")]


QUICK = [("works", "exception", 2), ("works", signal.SIGINT, 0), ("hangs", signal.SIGTERM, 2)]
CASES = [
    ("works", how, num_workers)
    for how in ("exception", signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    for num_workers in (0, 2)
] + [("hangs", how, 2) for how in ("exception", signal.SIGINT, signal.SIGTERM, signal.SIGKILL)]


@pytest.mark.parametrize(
    "decoder, how, num_workers",
    [pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in CASES],
)
def test_nothing_is_left(decoder, how, num_workers, videos, monkeypatch):
    if decoder == "hangs":
        opened = iter(range(5))

        def open_or_hang(*arguments):
            next(opened, None) is not None or time.sleep(1000)
            return real(*arguments)

        real = dataset.open_video
        monkeypatch.setattr(dataset, "open_video", open_or_hang)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=use, args=(videos("intra.mp4"), num_workers, how, there))
    process.start()
    assert here.poll(30)
    deadline = time.monotonic() + SECONDS
    while process.is_alive() and time.monotonic() < deadline:
        if how != "exception":  # again: one that falls into a callback of a library is lost in Python
            os.kill(process.pid, how)
        process.join(3)
    try:
        assert process.exitcode == (-how if how in (signal.SIGTERM, signal.SIGKILL) else 1)
        while left := processes_of(process.pid):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
    finally:
        if processes_of(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
