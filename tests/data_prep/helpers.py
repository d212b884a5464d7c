"""What the scripts wrote, and runs of them that are killed."""

import csv
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workers import attempt

from videonorm.data import open_video


def table(path: str | Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def frames_of(path: str | Path) -> Any:
    with open_video(str(path)) as video:
        return video.read(range(video.num_frames))


def spoil(folder: Path) -> None:
    """Add a video that is cut off, an empty one, and one that is damaged to those of fixture ``folder``."""
    whole = (folder / "walk/d.mp4").read_bytes()
    (folder / "walk/cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "walk/empty.mp4").touch()
    spoilt = bytearray(whole)
    at = whole.index(b"mdat") + len(whole) // 4
    spoilt[at : at + 400] = bytes(400)
    (folder / "walk/spoilt.mp4").write_bytes(spoilt)


def reasons_in(path: Path) -> dict[str, str]:
    """Of bad_videos.csv, by file name."""
    return {Path(row["path"]).name: row["reason"] for row in table(path)}


def kill_and_repeat(script: str, arguments: list[str], half_way: Callable[[], bool], out: Path) -> None:
    """Run a script, kill it once ``half_way`` is true, and run it again to its end."""
    command = [sys.executable, script, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not half_way():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.csv").exists()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr


def disk_that_fills(after: int) -> Callable[..., Iterator[tuple[int, Any]]]:
    """In the place of ``workers.run_all``: in this process, on a disk that is full after so many videos."""

    def run_all(task: Any, items: Any, title: str, options: Any) -> Iterator[tuple[int, Any]]:
        for number, item in enumerate(items):
            if number == after:
                raise OSError(errno.ENOSPC, "No space left on device")
            yield number, attempt(task, item)

    return run_all


def check_command_line(script: str, tmp_path: Path) -> None:
    """--help imports no torch, and a mistake is one sentence with exit code 2."""
    name, missing = os.path.basename(script), tmp_path / "no.csv"
    help_command = [sys.executable, "-X", "importtime", script, "--help"]
    listed = subprocess.run(help_command, capture_output=True, text=True, check=True)
    assert "examples:" in listed.stdout and "torch" not in listed.stderr
    for arguments, sentence in (
        ([missing], f"manifest ({missing}) must be a file or folder that exists"),
        (
            [missing, "--time-limit-seconds", "9"],
            f"--time-limit-seconds is no option here; did you mean --time_limit_seconds? (see {name} --help)",
        ),
    ):
        command = [sys.executable, script, *arguments, "--out", tmp_path / "o.png"]
        wrong = subprocess.run(command, capture_output=True, text=True)
        assert (wrong.returncode, wrong.stderr) == (2, f"{name}: {sentence}\n")


def videos_of(name: str) -> list[tuple[str, str, str]]:
    """(path below the folder of videos, label, class name) of each row of a manifest."""
    base = os.path.join(os.getcwd(), "videos", "")
    return [(row["path"].removeprefix(base), row["label"], row["class_name"]) for row in table(name)]


def problems() -> list[tuple[str, str, str]]:
    return [(row["status"], row["split"], row["reason"]) for row in table("out/problems.csv")]


HEADER = "label,youtube_id,time_start,time_end,split"  # of Kinetics' annotations
