"""Make manifests of the GRID audiovisual sentence corpus (Cooke et al. 2006), in which the class is a word
that is seen on the lips: POSITION_train.csv and POSITION_val.csv for each position in the sentence that is
asked for, with the stretch of each video that shows the word, and problems.csv with what is missing, damaged,
duplicate, or says other words than its name.

With --crop or --crops the videos are cut to a box around the mouth and encoded anew as H.264 in OUT/videos, a
keyframe every 12 frames, without sound. Run again, files that were made of the same source with the same box
are kept; so a run that was stopped in any way goes on. Without a box the files are used where they are.

examples:
  python data_prep/grid.py --videos grid --out data/grid --crop 136 180 88 64
  python data_prep/grid.py --videos grid --out data/grid --crops boxes.csv --words command colour digit
  python data_prep/grid.py --videos grid --out data/grid --words letter --val_letters --val_speakers s3 s4
  python data_prep/grid.py --videos grid/video --alignments grid/align --out data/grid_whole

The box of the examples is only one: look at a frame of each speaker. boxes.csv has the columns speaker, x, y,
width, height.

Cost of 1,000 sentences, a speaker's, on one core: with a box one minute and, at 88 x 64, 31 MB; without one
five seconds.

exit codes: 0 done; 2 an argument or a file is wrong.
"""

import math
from argparse import ArgumentTypeError, Namespace
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from grid_sentence import LETTERS, POSITIONS, VIDEO_SECONDS, class_names, stretch
from script import add_out_folder, add_work, help_of, run, writing

from videonorm.errors import UserError
from videonorm.files import check_writable
from videonorm.options import Parser, whole_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from grid_corpus import Corpus, Recording
    from grid_films import Film
    from matching import Problem

    from videonorm.data import Split

LONGER = 0.1  # seconds that a video may be than the header of an MPEG file says
SPLITS: "tuple[Split, ...]" = ("train", "val")
KINDS = ("missing", "unreadable", "mismatch")  # of problems that a split's table counts
ROOM = "a folder to write in, with room"


def parser() -> Parser:
    options = Parser(prog="grid.py", **help_of(__doc__))
    options.add_argument(
        "--videos", type=Path, required=True, metavar="DIR", help="folder with a folder s1, s2, ... a speaker"
    )
    options.add_argument(
        "--alignments",
        type=Path,
        metavar="DIR",
        help="where the files *.align are, in such folders too (default: --videos)",
    )
    add_out_folder(options)
    word = options.add_argument_group("class")
    word.add_argument(
        "--words",
        nargs="+",
        choices=POSITIONS,
        default=["colour"],
        metavar="POSITION",
        help=f"whose word is the class, a manifest for each: {', '.join(POSITIONS)} (default: colour)",
    )
    word.add_argument(
        "--margin_seconds",
        type=_seconds,
        default=0.2,
        metavar="S",
        help="of the video on either side of the word (default: 0.2)",
    )
    word.add_argument(
        "--min_seconds",
        type=_seconds,
        default=0.64,
        metavar="S",
        help="that a stretch has at least, which is 16 frames by default (default: 0.64)",
    )
    split = options.add_argument_group("split")
    split.add_argument(
        "--val_letters",
        nargs="*",
        choices=list(LETTERS),  # of a text any part would do
        default=list("dhmsx"),
        metavar="LETTER",
        help="sentences with these are for validation, and none is in both; no letter here: split by "
        "speakers alone (default: d h m s x)",
    )
    split.add_argument(
        "--val_speakers",
        nargs="+",
        default=[],
        metavar="SPEAKER",
        help="these are for validation, as s3; with --val_letters only what is new by both is in it, "
        "and what is new by one of them is left out (default: every speaker is in both)",
    )
    picture = options.add_argument_group("picture")
    picture.add_argument(
        "--crop",
        type=whole_number,
        nargs=4,
        metavar=("X", "Y", "WIDTH", "HEIGHT"),
        help="box to keep, in pixels as they are stored, even numbers (default: use the files as they are)",
    )
    picture.add_argument(
        "--crops",
        type=Path,
        metavar="FILE",
        help="CSV with a box for each speaker; --crop is that of those who are not in it",
    )
    add_work(options, time_limit_seconds=60)
    return options


def main(argv: list[str]) -> int:
    """Run the script; returns the exit code. Raises UserError for what it is given and cannot use."""
    options = parser().parse_args(argv)
    alignments = options.videos if options.alignments is None else options.alignments
    for option, folder in (("--videos", options.videos), ("--alignments", alignments)):
        if not folder.is_dir():
            raise UserError(f"{option} ({folder}) must be a folder{' that exists' * (not folder.exists())}")
    if not (options.val_letters or options.val_speakers):
        raise UserError("--val_letters () must name letters, or --val_speakers speakers, for validation")
    if options.val_letters and "letter" in options.words:
        raise UserError(
            "--words (letter) must not be split by letters, of which training would lack some: "
            "give --val_letters without a letter, and --val_speakers"
        )

    from grid_corpus import SplitRule, read_corpus
    from grid_films import boxes_of, crop_all, films_of
    from matching import Problem
    from usable import write_problems

    val_speakers = {speaker.lower() for speaker in options.val_speakers}
    corpus = read_corpus(options.videos, alignments, SplitRule(set(options.val_letters), val_speakers))
    _check(corpus, alignments, val_speakers, options)
    boxes = boxes_of(corpus.speakers, options.crop, options.crops)
    out: Path = options.out.absolute()
    with writing(out, ROOM):
        for name in ("problems", *(f"{word}_{split}" for word in options.words for split in SPLITS)):
            check_writable(out / f"{name}.csv")
        if boxes:
            films = crop_all(corpus.recordings, boxes, out, options)
        else:
            films = films_of(corpus.recordings, options)
        problems = list(corpus.problems)
        usable: list[Film] = []
        for film in films:
            if reason := film.reason or _cut_off(film, options.words):
                problems.append(Problem("unreadable", film.recording.path, reason, film.recording.listed))
            else:
                usable.append(film)
        write_problems(out, problems, None)
        _check_splits([film.recording for film in usable], f"that can be used (see {out / 'problems.csv'})")
        for position in options.words:
            for split in SPLITS:
                _write(position, split, usable, out, options)
    _show(corpus, usable, problems, out, options.words)
    return 0


def _check(corpus: "Corpus", alignments: Path, val_speakers: set[str], options: Namespace) -> None:
    """Raise UserError where no manifests can be made of what there is."""
    if not corpus.speakers:
        raise UserError(
            f"--videos ({options.videos}) must hold videos called as their sentences are, such as bbaf2n.mpg"
        )
    if unknown := sorted(val_speakers - set(corpus.speakers)):
        raise UserError(
            f"--val_speakers ({unknown[0]}) must be a speaker of whom there are videos: "
            f"{', '.join(corpus.speakers)}"
        )
    found = [problem for problem in corpus.problems if problem.video]
    if found and not corpus.recordings:
        raise UserError(
            f"--alignments ({alignments}) must hold an alignment of at least one video of --videos: "
            f"{found[0].path} {found[0].reason}"
        )
    _check_splits(corpus.recordings, "with an alignment")


def _check_splits(recordings: "Iterable[Recording]", which: str) -> None:
    """Raise UserError where training or validation would have no video.

    Args:
        which: of all videos these are, for the sentence.
    """
    counts = Counter(recording.listed.split for recording in recordings)
    for split in SPLITS:
        if not counts[split]:
            raise UserError(
                f"--val_letters and --val_speakers must leave videos for training and for validation: "
                f"of {counts.total():,} {which} none is for {split}"
            )


def _cut_off(film: "Film", positions: "Sequence[str]") -> str:
    """What is wrong with a video that ends before a word that is wanted; "" for others."""
    length = film.facts.duration_seconds
    for position in positions:
        word = film.recording.words[POSITIONS.index(position)]
        if length is not None and word.end_seconds > length + LONGER:
            return f"ends at {length:g} s, before the {position} does, at {word.end_seconds:g} s"
    return ""


def _write(position: str, split: str, films: "Sequence[Film]", out: Path, options: Namespace) -> None:
    """Write the manifest of a split, in which the word at a position is the class."""
    from rows import write_rows
    from usable import path_from

    names = class_names(position)
    rows = []
    for recording, path, facts, _ in films:
        if recording.listed.split == split:
            word = recording.words[POSITIONS.index(position)]
            start, end = stretch(word, options.margin_seconds, options.min_seconds)
            row: dict[str, object] = {
                "path": path_from(out, path),
                "label": names.index(word.text),
                "class_name": word.text,
                "split": split,
                "start_seconds": round(start, 4),
                "end_seconds": round(end, 4),
            }
            rows.append(row | facts.cells() | {"speaker": recording.speaker, "sentence": recording.sentence})
    write_rows(out / f"{position}_{split}.csv", rows)


def _show(
    corpus: "Corpus",
    films: "Sequence[Film]",
    problems: "list[Problem]",
    out: Path,
    positions: "Sequence[str]",
) -> None:
    """Print a table of the splits, and what needs the reader's attention."""
    from usable import lines_of, print_table

    counts = Counter((problem.video and problem.video.split, problem.status) for problem in problems)
    table: dict[str, dict[str, int]] = {}
    hours: dict[str, float] = {}
    used: dict[str, list[Film]] = {}
    for split in SPLITS:
        used[split] = [film for film in films if film.recording.listed.split == split]
        kinds = {kind: counts[split, kind] for kind in KINDS}
        table[split] = {"listed": corpus.listed[split], "usable": len(used[split]), **kinds}
        hours[split] = sum(film.facts.duration_seconds or 0.0 for film in used[split]) / 3600
    lines = list(corpus.notes)
    if corpus.left_out:
        lines.append(f"videos in neither split, new by letter or by speaker alone: {corpus.left_out:,}")
    spoken, speakers = (
        set.intersection(*({getattr(film.recording, name) for film in of} for of in used.values()))
        for name in ("sentence", "speaker")
    )
    if speakers:
        lines.append(f"speakers in both splits: {len(speakers)}; scores say nothing of people never seen")
    if spoken:
        lines.append(f"sentences in both splits, of other speakers: {len(spoken):,}")
    for position in positions:
        names = class_names(position)
        seen = {film.recording.words[POSITIONS.index(position)].text for film in used["train"]}
        lacking = [name for name in names if name not in seen]
        lines.append(
            f"{position}: {len(names)} classes"
            + f", without a video to train on: {', '.join(lacking)}" * bool(lacking)
        )
    print_table(table, hours, [*lines, *lines_of(problems, out)])


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= VIDEO_SECONDS:
        raise ArgumentTypeError(f"({text}) must be a number of seconds from 0 to {VIDEO_SECONDS:g}")
    return value


if __name__ == "__main__":
    run(main)
