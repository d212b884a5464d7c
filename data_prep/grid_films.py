"""The files of recordings as they are used: cropped and encoded anew, or where they are."""

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from encode import Job, Settings, transcode
from grid_corpus import Recording
from pictures import Box
from script import printable, unfinished_folder
from video import Facts, probe
from workers import Failed, run_all

from videonorm.data.rows import csv_rows, read_text
from videonorm.errors import UserError

# The pictures are few pixels, which have to look well, and stay as large as the box.
SETTINGS = Settings(1 << 15, gop=12, crf=18.0, preset="medium", tune="fastdecode", audio=False, fps=None)


class Film(NamedTuple):
    """A recording and the file that is used for it."""

    recording: Recording
    path: str  # absolute
    facts: Facts
    reason: str  # why it cannot be used, which completes the sentence "the video ..."; or ""


def _film(recording: Recording, path: str, result: Facts | Failed) -> Film:
    if isinstance(result, Failed):
        return Film(recording, path, Facts(), result.reason)
    return Film(recording, path, result, "")


def films_of(recordings: Sequence[Recording], options: Namespace) -> list[Film]:
    """The files where they are, going by their headers."""
    paths = [recording.path for recording in recordings]
    results = dict(run_all(probe, paths, "Headers", options))
    return [_film(of, of.path, results[number]) for number, of in enumerate(recordings)]


def crop_all(
    recordings: Sequence[Recording], boxes: dict[str, Box], out: Path, options: Namespace
) -> list[Film]:
    """Make a file of each recording, unless it is there: the box of its speaker, encoded as H.264.

    Raises:
        UserError: a box lies in no picture, or the files would replace their sources.
    """
    targets = [str(out / "videos" / of.speaker / f"{of.sentence}.mp4") for of in recordings]
    sources = {os.path.realpath(recording.path) for recording in recordings}
    if clash := next((target for target in targets if os.path.realpath(target) in sources), None):
        raise UserError(f"--out ({printable(out)}) must not hold the sources, such as {printable(clash)}")
    _check_in_pictures(recordings, boxes, options)
    (out / "videos").mkdir(parents=True, exist_ok=True)
    with unfinished_folder(out, "grid") as unfinished:
        jobs = [
            Job(of.path, target, unfinished, None, None, SETTINGS, boxes[of.speaker])
            for of, target in zip(recordings, targets, strict=True)
        ]
        results = dict(run_all(transcode, jobs, f"Cropping to {out}", options))
    whole = [result for result in results.values() if not isinstance(result, Failed)]
    kept = sum(result.kept for result in whole)
    print(f"{len(whole) - kept:,} files made, {kept:,} kept from before, {len(jobs) - len(whole):,} failed")
    return [
        _film(of, jobs[number].target, made if isinstance(made := results[number], Failed) else made.facts)
        for number, of in enumerate(recordings)
    ]


def _check_in_pictures(recordings: Sequence[Recording], boxes: dict[str, Box], options: Namespace) -> None:
    """Raise UserError for a box that does not lie in the first video of its speaker that can be read."""
    first: dict[str, Recording] = {}
    for recording in recordings:
        first.setdefault(recording.speaker, recording)
    shown = list(first.values())
    for number, facts in run_all(probe, [of.path for of in shown], "Looking at pictures", options):
        if isinstance(facts, Failed) or facts.width is None or facts.height is None:
            continue  # which is said of it when it is to be cropped
        recording = shown[number]
        box = boxes[recording.speaker]
        if box.x + box.width > facts.width or box.y + box.height > facts.height:
            raise UserError(
                f"the box ({' '.join(map(str, box))}) of {recording.speaker} must lie in the picture, "
                f"which is {facts.width} x {facts.height} in {printable(recording.path)}"
            )


def boxes_of(speakers: Sequence[str], crop: Sequence[int] | None, crops: Path | None) -> dict[str, Box]:
    """The box to keep of the pictures of each speaker; none at all where nothing is cropped.

    Args:
        crop: x, y, width and height for speakers who are not in ``crops``.
        crops: a CSV file with the columns speaker, x, y, width and height.

    Raises:
        UserError: one sentence, with the line number where there is one.
    """
    boxes: dict[str, Box] = {}
    if crops:
        lines = read_text(crops, "--crops").split("\n")
        for where, cells in csv_rows(crops, lines, ",", ("speaker", *Box._fields)):
            if (speaker := cells["speaker"].lower()) in boxes:
                raise UserError(f"{where}: speaker ({speaker}) must be there once")
            boxes[speaker] = _box(where, [cells[name] for name in Box._fields])
    if crop:
        boxes = {**dict.fromkeys(speakers, _box("--crop", crop)), **boxes}
    if (crop or crops) and (without := next((speaker for speaker in speakers if speaker not in boxes), None)):
        raise UserError(f"--crops ({crops}) must have speaker {without}, or --crop give the box of others")
    return boxes


def _box(where: str, numbers: Sequence[int | str]) -> Box:
    for name, number in zip(Box._fields, numbers, strict=True):
        least = 2 if name in ("width", "height") else 0
        value = int(number) if str(number).isdecimal() else -1
        if value % 2 or value < least:
            raise UserError(f"{where}: {name} ({number}) must be an even number of pixels, {least} or more")
    return Box(*map(int, numbers))
